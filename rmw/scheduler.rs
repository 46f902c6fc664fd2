// SPDX-License-Identifier: GPL-2.0

//! What is copied next, and when. Runs as the engine's work item, so never twice at a time: regions
//! are claimed by one only.

use super::{
    complete,
    engine::{Engine, Gate, Run, Shared},
    flush,
    job::{Claimed, Job},
    pace::Pace,
    plan::Search,
    read, verify,
};
use crate::{
    abstractions::{bio::Priority, block::plugged},
    mapping,
};
use kernel::{prelude::*, sync::Arc, time::Delta};

/// Why no job begins.
pub(super) enum NoJob {
    /// Nothing before that time has passed.
    Wait(Delta),
    /// Nothing until something ends, or is said.
    Nothing,
}

/// Begins all jobs that may begin, and flushes the clone where that is due. Context: the engine's
/// worker.
pub(super) fn run(engine: &Arc<Engine>) {
    flush::now_and_then(engine);
    go_on_if_drained(engine);
    let most = jobs_at_once(engine);
    let mut passes = 0;
    let (copy, look) = plugged(|| {
        let copy = loop {
            match next(engine, most, &mut passes) {
                Ok(job) => read::submit(job),
                Err(NoJob::Wait(delay)) => break Some(delay),
                Err(NoJob::Nothing) => break None,
            }
        };
        // What is to be copied goes first.
        (copy, verify::begin(engine, most))
    });
    let wait = sooner(copy, end_late_hold(engine));
    flush::at_rest(engine, wait.is_some());
    if let Some(delay) = sooner(wait, look) {
        engine.wake_in(delay);
    }
}

fn sooner(one: Option<Delta>, other: Option<Delta>) -> Option<Delta> {
    match (one, other) {
        (Some(one), Some(other)) if one.as_nanos() > other.as_nanos() => Some(other),
        (None, other) => other,
        (one, _) => one,
    }
}

/// A job that has writes wait goes on when nothing is on its way to its regions any more.
fn go_on_if_drained(engine: &Arc<Engine>) {
    let (parked, late) = {
        let mut shared = engine.shared.lock();
        let now = shared.pace.now();
        let late = shared.hold_ends.is_none_or(|ends| ends <= now);
        (shared.parked.take(), late)
    };
    match parked {
        Some(job) if job.is_drained() => {
            job.go_on_holding();
            read::submit(job);
        }
        Some(job) if late => complete::put_back(job),
        Some(job) => engine.park(job),
        None => {}
    }
}

/// Writes that have waited for a job for long go on without it: a device hangs, or nearly so.
/// Returns how long that is still to come.
fn end_late_hold(engine: &Arc<Engine>) -> Option<Delta> {
    let mut shared = engine.shared.lock();
    let now = shared.pace.now();
    let left = shared.hold_ends? - now;
    if left > 0 {
        return Some(Delta::from_nanos(left));
    }
    engine.mapping.end_any_hold();
    shared.hold_ends = None;
    shared.hold_from = now + Pace::REST.as_nanos();
    // A job that is parked gives up.
    drop(shared);
    engine.wake();
    None
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

fn next(engine: &Arc<Engine>, most: u32, passes: &mut u32) -> Result<Job<Claimed>, NoJob> {
    loop {
        let mut shared = engine.shared.lock();
        if !shared.gate.lets_jobs_begin() || !shared.has_room(most) {
            return Err(NoJob::Nothing);
        }
        if !engine.mapping.is_attached() {
            return Err(NoJob::Nothing);
        }
        let place = look(engine, &mut shared, passes)?;
        let slot = shared.pool.take().ok_or(NoJob::Nothing)?;
        let sectors = shared.pace.most(shared.pool.pipeline().batch);
        let may_hold = shared.pace.now() >= shared.hold_from;
        drop(shared);

        // Without the lock: the map may be large.
        let (from, end) = place.bounds();
        let regions = (sectors / engine.mapping.geometry.region_size()).max(1);
        let found = engine.mapping.claim((from, end), regions, may_hold);

        let mut shared = engine.shared.lock();
        let claimed = match found {
            Some(Ok(claimed)) => claimed,
            None => {
                place.advance(&mut shared, end);
                drop(shared);
                engine.put_back(slot);
                continue;
            }
            Some(Err(on)) => {
                if let Place::Plan(..) = place {
                    shared.plan.keep_away();
                }
                place.advance(&mut shared, on);
                drop(shared);
                engine.put_back(slot);
                continue;
            }
        };
        let mapping::Claimed { claim, hold, .. } = claimed;
        place.advance(&mut shared, claim.span.end());
        if shared.gate != Gate::Final {
            let now = shared.pace.now();
            let sectors = engine.mapping.geometry.sectors(claim.span).len();
            shared.pace.job(now, sectors);
        }
        let priority = if hold.is_some() {
            // Users wait for it.
            Priority::BestEffort
        } else {
            priority(&mut shared)
        };
        if hold.is_some() {
            shared.hold_on();
        }
        drop(shared);
        let job = Job::begin(slot, engine.clone(), claimed, priority);
        if hold.is_none() || job.is_drained() {
            return Ok(job);
        }
        engine.park(job);
        // What it waits for may have ended before it was parked.
        engine.wake();
    }
}

/// Where the next regions are looked for.
#[derive(Clone, Copy)]
enum Place {
    /// In what `copy` messages have asked for.
    Plan(Search, u64, u64),
    /// In the rest of the pass.
    Pass(u64, u64),
}

impl Place {
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

/// Decides where to look, or that this has to wait. `passes` counts those that begin.
fn look(engine: &Engine, shared: &mut Shared, passes: &mut u32) -> Result<Place, NoJob> {
    let jobs = shared.copies() > 0;
    let now = shared.pace.now();
    let last = shared.gate == Gate::Final;
    let place = match shared.plan.search(jobs) {
        search @ Search::Look(from, end) => Place::Plan(search, from, end),
        Search::Wait => return Err(NoJob::Nothing),
        // In the last copy none is in flight any more.
        Search::Later => return Err(NoJob::Wait(if last { Pace::SOON } else { Pace::PASS })),
        Search::Empty => {
            if shared.run != Run::Started {
                return Err(NoJob::Nothing);
            }
            let regions = engine.mapping.geometry.regions();
            if shared.cursor >= regions {
                let counts = engine.mapping.regions.counts();
                if counts.dirty <= counts.aside {
                    // Writes tell nobody what they have made dirty, and a job may take long.
                    return Err(if jobs {
                        NoJob::Wait(Pace::PASS)
                    } else {
                        NoJob::Nothing
                    });
                }
                let delay = shared.pace.pass_in(now).filter(|_| !last);
                // Bios are plugged, and what is dirty may be waiting for one of them.
                let delay = delay.or((*passes > 0).then_some(Pace::SOON));
                if let Some(delay) = delay {
                    return Err(NoJob::Wait(delay));
                }
                *passes += 1;
                shared.pace.pass(now);
                shared.cursor = 0;
            }
            Place::Pass(shared.cursor, regions)
        }
    };
    match shared.pace.job_in(now).filter(|_| !last) {
        Some(delay) => Err(NoJob::Wait(delay)),
        None => Ok(place),
    }
}

/// One job at a time is as urgent as a user's I/O, so that copying goes on where the idle class is
/// served after all others only (mq-deadline: after ten seconds). All are when a suspend waits.
pub(super) fn priority(shared: &mut Shared) -> Priority {
    let first = !core::mem::replace(&mut shared.urgent_job, true);
    if first || shared.gate == Gate::Final {
        Priority::BestEffort
    } else {
        Priority::Idle
    }
}
