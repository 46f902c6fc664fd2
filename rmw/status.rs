// SPDX-License-Identifier: GPL-2.0

//! What can be told of the copy.

use super::{
    engine::{Engine, Gate, Run},
    pool::Pipeline,
};
use crate::mapping::region::RegionCounts;
use kernel::prelude::*;

/// What was done, in sectors.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Written to the clone.
    pub(crate) copied: u64,
    /// Zeroed on the clone, instead of being written.
    pub(crate) zeroed: u64,
    /// Of what was written, what had been copied before.
    pub(crate) recopied: u64,
    /// Found on the clone as they shall be, so not written.
    pub(crate) unchanged: u64,
    /// Logical blocks that can't be read.
    pub(crate) bad: u64,
    /// Found to differ where they were in sync.
    pub(crate) mismatched: u64,
    /// Could not be read.
    pub(crate) read_errors: u64,
    /// Could not be written, or read by a verify or for a merge.
    pub(crate) clone_errors: u64,
}

/// What the copy is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Idle,
    Copying,
    Paused,
    Verifying,
    Complete,
}

/// What became of it since the last `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Ok,
    Errors,
    Detached,
}

/// A look at an engine.
pub(crate) struct Progress {
    pub(crate) state: State,
    pub(crate) health: Health,
    pub(crate) regions: RegionCounts,
    pub(crate) counters: Counters,
    /// How far the verify is that goes on, or the last one was, in sectors of the target.
    pub(crate) verified: u64,
    pub(crate) pipeline: Pipeline,
    pub(crate) rate: u32,
}

/// What the state is told from.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// All regions are in sync or skipped.
    all_done: bool,
    /// And the clone was flushed after that.
    complete: bool,
    /// Ranges were asked for, and are not done.
    planned: bool,
    /// Bios of jobs or flushes are, and more may follow.
    in_flight: bool,
    /// Jobs have written on the clone since a flush was sent.
    unflushed: bool,
    /// A flush is sent when jobs have ended.
    flushes: bool,
    /// A verify goes on.
    verifies: bool,
}

impl Seen {
    /// A copy is not over before its flush: who waits for its end must not see another state
    /// between the last job and that.
    fn state(self, run: Run) -> State {
        let completes = self.all_done && self.flushes;
        match run {
            _ if self.verifies => State::Verifying,
            _ if self.all_done && self.complete => State::Complete,
            Run::Started => State::Copying,
            _ if self.planned || completes => State::Copying,
            Run::Paused => State::Paused,
            Run::Idle if self.in_flight || self.unflushed && self.flushes => State::Copying,
            Run::Idle => State::Idle,
        }
    }
}

impl Engine {
    /// How far the copy is. Context: process.
    pub(crate) fn progress(&self) -> Progress {
        let shared = self.shared.lock();
        let regions = self.mapping.regions.counts();
        let open = shared.gate != Gate::Shut;
        let state = Seen {
            all_done: regions.in_sync + regions.skipped == self.mapping.geometry.regions(),
            complete: self.mapping.phase.is_complete(),
            planned: !shared.plan.is_empty(),
            in_flight: open && (shared.copies() > 0 || shared.is_flushing()),
            unflushed: shared.wrote && self.mapping.unflushed_sectors() > 0,
            flushes: open && self.mapping.is_attached() && !shared.flush_failed,
            verifies: open && shared.verify.goes_on(),
        }
        .state(shared.run);
        let health = if !self.mapping.is_attached() {
            Health::Detached
        } else if shared.failed {
            Health::Errors
        } else {
            Health::Ok
        };
        Progress {
            state,
            health,
            regions,
            counters: shared.counters,
            verified: shared.verify.sectors(&self.mapping.geometry),
            pipeline: shared.pool.pipeline(),
            rate: shared.pace.rate(),
        }
    }
}

#[kunit_tests(clone_rs_status)]
mod tests {
    use super::*;

    /// From a `copy` message to the end, as a reader may see it: `Idle` and `Paused` are no steps
    /// on the way.
    #[test]
    fn a_copy_is_not_over_before_its_flush() {
        let flushes = Seen {
            flushes: true,
            ..Seen::default()
        };
        let planned = Seen {
            planned: true,
            in_flight: true,
            unflushed: true,
            ..flushes
        };
        let last_job_is_home = Seen {
            planned: false,
            in_flight: false,
            ..planned
        };
        let flushing = Seen {
            in_flight: true,
            unflushed: false,
            planned: false,
            ..planned
        };
        for seen in [planned, last_job_is_home, flushing] {
            assert_eq!(seen.state(Run::Idle), State::Copying);
            let of_all = Seen {
                all_done: true,
                ..seen
            };
            assert_eq!(of_all.state(Run::Idle), State::Copying);
            assert_eq!(of_all.state(Run::Paused), State::Copying);
        }
        assert_eq!(flushes.state(Run::Idle), State::Idle);
        let complete = Seen {
            all_done: true,
            complete: true,
            ..flushes
        };
        for run in [Run::Idle, Run::Started, Run::Paused] {
            assert_eq!(complete.state(run), State::Complete);
        }
    }

    #[test]
    fn what_is_not_going_to_be_flushed_is_at_rest() {
        let done = Seen {
            all_done: true,
            unflushed: true,
            ..Seen::default()
        };
        assert_eq!(done.state(Run::Idle), State::Idle);
        assert_eq!(done.state(Run::Paused), State::Paused);
        let jobs_end = Seen {
            in_flight: true,
            unflushed: true,
            flushes: true,
            ..Seen::default()
        };
        assert_eq!(jobs_end.state(Run::Paused), State::Paused);
    }
}
