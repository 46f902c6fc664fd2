// SPDX-License-Identifier: GPL-2.0

//! What is copied next, and when. Runs as the engine's work item, so never twice at a time: regions
//! are claimed by one only.

use super::{
    engine::{Engine, Gate, Run, Shared},
    flush,
    job::{Claimed, Job},
    plan::Search,
    read,
};
use crate::abstractions::{bio::Priority, block::plugged};
use kernel::{prelude::*, sync::Arc, time::Delta};

/// What there is to do.
enum Next {
    /// A job begins.
    Job(Job<Claimed>),
    /// Nothing before that time has passed.
    Wait(Delta),
    /// Nothing until something ends, or is said.
    Nothing,
}

/// Begins all jobs that may begin, and flushes the clone where that is due. Context: the engine's
/// worker.
pub(super) fn run(engine: &Arc<Engine>) {
    let most = jobs_at_once(engine);
    let wait = plugged(|| loop {
        match next(engine, most) {
            Next::Job(job) => read::submit(job),
            Next::Wait(delay) => return Some(delay),
            Next::Nothing => return None,
        }
    });
    flush::consider(engine);
    if let Some(delay) = wait {
        engine.wake_in(delay);
    }
}

/// How many jobs may be in flight: a quarter of `depth`, and at least one, while users wait for
/// bios of the mapped device.
fn jobs_at_once(engine: &Engine) -> u32 {
    let (depth, last) = {
        let shared = engine.shared.lock();
        (shared.pool.pipeline().depth, shared.gate == Gate::Final)
    };
    if last || engine.mapped_device.bios_in_flight() == 0 {
        depth
    } else {
        (depth / 4).max(1)
    }
}

fn next(engine: &Arc<Engine>, most: u32) -> Next {
    loop {
        let mut shared = engine.shared.lock();
        if shared.gate == Gate::Shut || shared.detached || shared.pool.out() >= most {
            return Next::Nothing;
        }
        let search = match search(engine, &mut shared) {
            Ok(search) => search,
            Err(next) => return next,
        };
        let (from, end) = search.bounds();
        let Some(slot) = shared.pool.take() else {
            return Next::Nothing;
        };
        let regions =
            shared.pace.most(shared.pool.pipeline().batch) / engine.mapping.geometry.region_size();
        // The map is looked through without the lock: it may be large.
        drop(shared);
        let found = engine.mapping.claim(from, end, regions.max(1));

        let mut shared = engine.shared.lock();
        let (claim, to) = match found {
            None => (None, end),
            // A discard is in flight there: its end wakes us.
            Some(Err(claim)) => (None, claim.span.end()),
            Some(Ok(claim)) => (Some(claim), claim.span.end()),
        };
        search.advance(&mut shared, to);
        let Some(claim) = claim else {
            let of_no_use = shared.pool.put(slot);
            drop(shared);
            drop(of_no_use);
            continue;
        };
        let now = shared.pace.now();
        let sectors = engine.mapping.geometry.sectors(claim.span).len();
        shared.pace.job(now, sectors);
        let priority = priority(&mut shared);
        drop(shared);
        return Next::Job(Job::begin(slot, engine.clone(), claim, priority));
    }
}

/// Where the next regions are looked for.
#[derive(Clone, Copy)]
enum Where {
    /// In what `copy` messages have asked for.
    Plan(Search, u64, u64),
    /// In the rest of the pass.
    Pass(u64, u64),
}

impl Where {
    fn bounds(self) -> (u64, u64) {
        match self {
            Self::Plan(_, from, end) | Self::Pass(from, end) => (from, end),
        }
    }

    /// All up to `to` was looked at.
    fn advance(self, shared: &mut Shared, to: u64) {
        match self {
            Self::Plan(search, ..) => shared.plan.advance(search, to),
            Self::Pass(..) => shared.cursor = to,
        }
    }
}

/// Decides where to look, or that this has to wait.
fn search(engine: &Engine, shared: &mut Shared) -> Result<Where, Next> {
    let jobs = shared.pool.out() > 0;
    let now = shared.pace.now();
    let last = shared.gate == Gate::Final;
    let place = match shared.plan.search(jobs) {
        search @ Search::Look(from, end) => Where::Plan(search, from, end),
        Search::Wait => return Err(Next::Nothing),
        Search::Empty => {
            if shared.run != Run::Started {
                return Err(Next::Nothing);
            }
            let regions = engine.mapping.geometry.regions();
            if shared.cursor >= regions {
                let counts = engine.mapping.regions.counts();
                if counts.dirty <= counts.aside {
                    return Err(Next::Nothing);
                }
                if let Some(delay) = shared.pace.pass_in(now).filter(|_| !last) {
                    return Err(Next::Wait(delay));
                }
                shared.pace.pass(now);
                shared.cursor = 0;
            }
            Where::Pass(shared.cursor, regions)
        }
    };
    match shared.pace.job_in(now).filter(|_| !last) {
        Some(delay) => Err(Next::Wait(delay)),
        None => Ok(place),
    }
}

/// One job at a time is as urgent as a user's I/O, so that copying goes on where the idle class is
/// served after all others only (mq-deadline: after ten seconds). All are when a suspend waits.
fn priority(shared: &mut Shared) -> Priority {
    let first = !core::mem::replace(&mut shared.urgent_job, true);
    if first || shared.gate == Gate::Final {
        Priority::BestEffort
    } else {
        Priority::Idle
    }
}
