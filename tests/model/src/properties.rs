// SPDX-License-Identifier: GPL-2.0

//! What must hold in each state.

use crate::model::Mirror;
use crate::state::*;
use stateright::{Model, Property};

pub const EQUAL: &str = "in sync implies equal";
pub const TRUE: &str = "complete is true";
pub const STAYS: &str = "complete stays";
pub const STATUS: &str = "a bio ends as its backing leg";
pub const READ: &str = "a read is not stale";
pub const REPORTED: &str = "what is reported differs";
pub const UNDONE: &str = "nothing is left undone";

impl Mirror {
    pub fn safety(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(EQUAL, |_, state: &State| is_equal(state)),
            Property::always(TRUE, |_, state: &State| is_truly_complete(state)),
            Property::always(STAYS, |_, state: &State| {
                state.wrong != Some(Wrong::SteppedBack)
            }),
            Property::always(STATUS, |_, state: &State| {
                state.wrong != Some(Wrong::Status)
            }),
            Property::always(READ, |_, state: &State| state.wrong != Some(Wrong::Stale)),
            Property::always(REPORTED, |_, state: &State| {
                state.wrong != Some(Wrong::Reported)
            }),
            Property::always(UNDONE, Self::is_not_stuck),
        ]
    }

    /// Where nothing can happen any more, all has happened.
    fn is_not_stuck(&self, state: &State) -> bool {
        let moves = state.bios.iter().any(|bio| !bio.is_waiting())
            || state.jobs.iter().any(|job| job.stage != JobStage::Idle);
        if moves && !state.locked && state.bios.iter().all(|bio| !bio.is_waiting()) {
            return true;
        }
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        if actions
            .into_iter()
            .any(|action| self.next_state(state, action).is_some())
        {
            return true;
        }
        let all_written = (0u8..)
            .zip(self.scenario.writers)
            .all(|(writer, ops)| usize::from(state.writers[usize::from(writer)].at) == ops.len());
        let copied = state.phase == Phase::Complete && state.with(BOTH, Word::D | Word::C) == 0
            || state.control.paused;
        all_written
            && state.bios.is_empty()
            && state.with(BOTH, Word::C | Word::H) == 0
            && matches!(state.verify.stage, VerifyStage::Idle | VerifyStage::Done)
            && usize::from(state.control.at) == self.scenario.messages.len()
            && copied
    }
}

/// Blocks that differ though no write to them is in flight. What the clone has just lost is not
/// counted while that is being found out.
fn differ(state: &State) -> Blocks {
    let finds_out = state.loss != Loss::None
        || matches!(
            state.flusher.stage,
            FlusherStage::Failed | FlusherStage::Suspecting | FlusherStage::Unsecured
        );
    let devices = &state.devices;
    let differ = (0..BLOCKS)
        .filter(|block| {
            devices.backing[*block] != devices.clone[*block]
                && !(finds_out && devices.clone[*block] == LOST)
        })
        .fold(0, |all, block| all | 1 << block);
    differ & !state.changing()
}

/// Of a region that is skipped only what was written since then counts.
fn is_equal(state: &State) -> bool {
    let in_sync = BOTH & !state.with(BOTH, Word::D | Word::C);
    let skipped = blocks_of(state.with(in_sync, Word::S)) & state.devices.unneeded;
    differ(state) & blocks_of(in_sync) & !skipped == 0
}

/// All that users have heard the end of is on the clone; durable there, as far as they could ask
/// for that, and what had ended when completing began.
fn is_truly_complete(state: &State) -> bool {
    let devices = &state.devices;
    let lost = (0..BLOCKS)
        .filter(|block| devices.clone[*block] == LOST)
        .fold(0, |all, block| all | 1 << block);
    let broken = devices.promised & (devices.volatile | lost) & !state.changing();
    state.phase != Phase::Complete || (differ(state) | broken) & !devices.unneeded == 0
}
