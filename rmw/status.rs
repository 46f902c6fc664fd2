// SPDX-License-Identifier: GPL-2.0

//! What can be told of the copy.

use super::{
    engine::{Engine, Gate, Run},
    pool::Pipeline,
};
use crate::mapping::region::RegionCounts;

/// What was done, in sectors.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Written to the clone.
    pub(crate) copied: u64,
    /// Of these, what had been copied before.
    pub(crate) recopied: u64,
    /// Could not be read.
    pub(crate) read_errors: u64,
    /// Could not be written.
    pub(crate) clone_errors: u64,
}

/// What the copy is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Idle,
    Copying,
    Paused,
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
    pub(crate) pipeline: Pipeline,
    pub(crate) rate: u32,
}

impl Engine {
    /// How far the copy is. Context: process.
    pub(crate) fn progress(&self) -> Progress {
        let shared = self.shared.lock();
        let regions = self.mapping.regions.counts();
        let all_done = regions.in_sync + regions.skipped == self.mapping.geometry.regions();
        let asked_for =
            !shared.plan.is_empty() || shared.pool.out() > 0 && shared.gate != Gate::Shut;
        let state = if all_done && self.mapping.phase.is_complete() {
            State::Complete
        } else {
            match shared.run {
                Run::Started => State::Copying,
                Run::Idle if asked_for => State::Copying,
                Run::Paused if !shared.plan.is_empty() => State::Copying,
                Run::Paused => State::Paused,
                Run::Idle => State::Idle,
            }
        };
        let health = if shared.detached {
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
            pipeline: shared.pool.pipeline(),
            rate: shared.pace.rate(),
        }
    }
}
