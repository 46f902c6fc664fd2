// SPDX-License-Identifier: GPL-2.0

//! Verify: both devices are read where they are in sync, and compared.
//!
//! ```text
//! begin -> read the backing device -> read the clone -> compare -> the next piece, or the end
//! ```
//!
//! Users' I/O goes on. Each piece is [watched](crate::mapping::Mapping::watch) from before it is
//! read; where it differs, and something was sent there meanwhile, it is looked at again. What is
//! written all the time is at last looked at while writes to it wait, as for a copy of it.

mod look;

use super::{
    engine::{Engine, Gate},
    pace::{Pace, POLL},
    scheduler::{self, NoJob},
};
use crate::{abstractions::sync::srcu::GracePeriod, mapping::geometry::Geometry};
use kernel::{prelude::*, sync::Arc, time::Delta};
use look::Job;
pub(super) use look::{go_on, Look};

/// How far a verify is. Locking: its owner's.
#[derive(Clone, Copy)]
pub(super) struct Verify {
    wanted: bool,
    /// Which one it is: what a look of an earlier one leaves is nothing to this one.
    round: u64,
    /// For it all writes enter the table: they do when this is over.
    period: Option<GracePeriod>,
    /// The next region.
    next: u64,
    /// How many looks are out.
    looks: u32,
    /// Those that are out have to end before others begin: these may come to the same regions, and
    /// a region can be watched for one look only.
    drains: bool,
    /// Whether its end is still to be told.
    tells: bool,
}

impl Verify {
    /// None goes on.
    pub(super) const fn none() -> Self {
        Self {
            wanted: false,
            round: 0,
            period: None,
            next: 0,
            looks: 0,
            drains: false,
            tells: false,
        }
    }

    /// Begins one, unless that was done already.
    pub(super) fn start(&mut self) {
        if !self.wanted {
            self.wanted = true;
            self.round += 1;
            self.next = 0;
            self.drains = self.looks > 0;
            self.tells = true;
        }
    }

    /// Ends it.
    pub(super) fn stop(&mut self) {
        self.wanted = false;
    }

    /// Whether one goes on, or is about to end.
    pub(super) fn goes_on(&self) -> bool {
        self.wanted || self.tells
    }

    /// How many jobs are out that look.
    pub(super) fn looks(&self) -> u32 {
        self.looks
    }

    /// How far it is, in sectors of the target.
    pub(super) fn sectors(&self, geometry: &Geometry) -> u64 {
        geometry.first_sector(self.next).min(geometry.len())
    }

    /// Takes the verify out of an engine that has no look out any more.
    pub(super) fn take(&mut self) -> Self {
        let taken = Self {
            period: None,
            looks: 0,
            drains: false,
            ..*self
        };
        self.stop();
        self.tells = false;
        taken
    }
}

/// Begins all looks that may begin, and ends the verify when it is done. Returns how long to wait
/// where that is not for an event. Context: the engine's worker.
pub(super) fn begin(engine: &Arc<Engine>, most: u32) -> Option<Delta> {
    loop {
        match next(engine, most) {
            Ok(job) => job.read(),
            Err(NoJob::Wait(delay)) => return Some(delay),
            Err(NoJob::Nothing) => return None,
        }
    }
}

fn next(engine: &Arc<Engine>, most: u32) -> Result<Job, NoJob> {
    let mapping = &engine.mapping;
    let geometry = &mapping.geometry;
    let mut shared = engine.shared.lock();
    let verify = &mut shared.verify;
    let done = verify.next >= geometry.regions() && verify.looks == 0;
    if done || !mapping.is_attached() {
        verify.stop();
    }
    if !verify.wanted {
        if verify.looks == 0 && core::mem::take(&mut verify.tells) {
            let entered = verify.period.take().is_some();
            drop(shared);
            if entered {
                mapping.let_writes_pass();
            }
            engine.mapped_device.raise_event();
        }
        return Err(NoJob::Nothing);
    }
    if shared.gate != Gate::Open || shared.verify.drains || !shared.has_room(most) {
        return Err(NoJob::Nothing);
    }
    let period = shared.verify.period;
    let period = *shared
        .verify
        .period
        .insert(period.unwrap_or_else(|| mapping.have_writes_enter()));
    if !mapping.all_enter(period) {
        return Err(NoJob::Wait(POLL));
    }
    let now = shared.pace.now();
    if let Some(delay) = shared.pace.job_in(now) {
        return Err(NoJob::Wait(delay));
    }
    let Verify { round, next, .. } = shared.verify;
    let sectors = shared.pace.most(shared.pool.pipeline().batch);
    drop(shared);

    // Without the lock: the map may be large.
    let regions = (sectors / geometry.region_size()).max(1);
    let found = mapping
        .regions
        .first_in_sync(next, geometry.regions(), regions);

    let mut shared = engine.shared.lock();
    let verify = &shared.verify;
    let same = verify.wanted && !verify.drains && (verify.round, verify.next) == (round, next);
    if !same || shared.gate != Gate::Open {
        return Err(NoJob::Wait(Pace::SOON));
    }
    let Some(span) = found else {
        shared.verify.next = geometry.regions();
        // Where no look is out, nobody else sees that this was the end.
        return Err(NoJob::Wait(Pace::SOON));
    };
    let slot = shared.pool.take().ok_or(NoJob::Nothing)?;
    let range = geometry.sectors(span);
    shared.verify.next = span.end();
    shared.verify.looks += 1;
    shared.pace.job(now, range.len());
    let priority = scheduler::priority(&mut shared);
    drop(shared);
    Ok(Job::begin(slot, engine.clone(), range, round, priority))
}

#[kunit_tests(clone_rs_verify)]
mod tests {
    use super::*;

    #[test]
    fn a_message_begins_one_at_a_time() {
        let mut verify = Verify::none();
        assert!(!verify.goes_on());
        verify.start();
        assert!(verify.goes_on() && !verify.drains);
        (verify.next, verify.looks) = (5, 2);
        verify.start();
        assert_eq!((verify.round, verify.next), (1, 5));
        // Its end is still to be told.
        verify.stop();
        assert!(verify.goes_on());
        // What is out was of the one before.
        verify.start();
        assert_eq!((verify.round, verify.next), (2, 0));
        assert!(verify.drains);
    }

    #[test]
    fn another_engine_goes_on_where_it_was() {
        let mut verify = Verify::none();
        verify.start();
        verify.next = 5;
        let taken = verify.take();
        assert!(taken.wanted && taken.tells && taken.period.is_none());
        assert_eq!((taken.round, taken.next, taken.looks()), (1, 5, 0));
        // The end is the other one's to tell.
        assert!(!verify.goes_on());
    }
}
