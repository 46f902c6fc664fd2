// SPDX-License-Identifier: GPL-2.0

//! A verify: `Mapping::have_writes_enter`, `Mapping::watch` and `Mapping::judge`, and the reads
//! between them.

use crate::mistakes::Mistake;
use crate::model::{Action, Mirror};
use crate::route::first;
use crate::state::*;

/// So many looks are in vain before writes wait.
const IN_VAIN: u8 = 2;

impl Mirror {
    pub fn verify_actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.verify.stage {
            VerifyStage::Idle | VerifyStage::Done => {}
            VerifyStage::Settling => {
                let passes = state.bios.iter().any(|bio| bio.kind == Kind::Track);
                if !passes || self.has(Mistake::VerifyWithoutGrace) {
                    actions.push(Action::AllEnter);
                }
            }
            VerifyStage::Next => {
                if state.control.suspend == Suspend::Running {
                    actions.push(Action::Watch);
                }
            }
            VerifyStage::Reading => actions.push(Action::LookAtBacking),
            VerifyStage::ReadingClone => actions.push(Action::LookAtClone),
            VerifyStage::Differs => actions.push(Action::Judge),
        }
    }

    /// The message: from here on all writes enter the table.
    pub fn verify(&self, state: &mut State) {
        state.verify.stage = VerifyStage::Settling;
    }

    pub fn all_enter(&self, state: &mut State) {
        state.verify.stage = VerifyStage::Next;
        state.verify.left = touched(self.scenario.blocks);
    }

    /// The next region, if it is in sync.
    pub fn watch(&self, state: &mut State) {
        let region = first(state.verify.left);
        if region == 0 {
            state.verify = Verify {
                stage: VerifyStage::Done,
                ..Verify::default()
            };
            return;
        }
        if state.with(region, Word::D | Word::C | Word::S) != 0 {
            return self.looked(state);
        }
        let holds = state.verify.tries >= IN_VAIN && !self.has(Mistake::VerifyWithoutHold);
        let may = state.mirror && state.holding && state.with(BOTH, Word::H) == 0;
        if holds && may && !self.escapes(state, region) {
            state.set(region, Word::H);
            state.verify.hold = true;
        }
        let entered = state
            .bios
            .iter()
            .any(|bio| bio.is_write() && bio.is_entered() && bio.range & blocks_of(region) != 0);
        state.verify.stage = VerifyStage::Reading;
        state.verify.todo = blocks_of(region) & self.scenario.blocks;
        state.verify.watched = region;
        state.verify.differs = false;
        if entered && !self.has(Mistake::WatchIgnoresEntries) {
            state.verify.watched = 0;
        }
    }

    pub fn look_at_backing(&self, state: &mut State) {
        let verify = &mut state.verify;
        let block = first(verify.todo);
        verify.todo &= !block;
        for block in bits(block).map(usize::from) {
            verify.buffer[block] = state.devices.backing[block];
        }
        if verify.todo == 0 {
            verify.stage = VerifyStage::ReadingClone;
            verify.todo = blocks_of(first(verify.left)) & self.scenario.blocks;
        }
    }

    pub fn look_at_clone(&self, state: &mut State) {
        let data = self.scenario.data();
        let verify = &mut state.verify;
        let block = first(verify.todo);
        verify.todo &= !block;
        for block in bits(block).map(usize::from) {
            verify.differs |= verify.buffer[block] != state.devices.clone[block];
        }
        // Without data whatever may have been disturbed was.
        verify.differs |= !data && verify.watched == 0;
        if verify.todo == 0 {
            verify.buffer = [0; BLOCKS];
            if verify.differs {
                verify.stage = VerifyStage::Differs;
            } else {
                self.looked(state);
            }
        }
    }

    /// What was read differs.
    pub fn judge(&self, state: &mut State) {
        let region = first(state.verify.left);
        let watched = state.verify.watched != 0 || self.has(Mistake::JudgeIgnoresWatch);
        let plain = state.bios.iter().any(|bio| {
            let enters = bio.is_write() && bio.is_entered() && bio.kind == Kind::Plain;
            enters && bio.range & blocks_of(region) != 0
        });
        if state.with(region, Word::D | Word::C | Word::S) != 0 {
            self.looked(state);
        } else if watched {
            let devices = &state.devices;
            let differs = bits(blocks_of(region) & !state.changing())
                .map(usize::from)
                .any(|block| devices.backing[block] != devices.clone[block]);
            if !differs {
                state.wrong = Some(Wrong::Reported);
            }
            state.set(region, Word::D);
            self.step_back(state);
            self.looked(state);
        } else if plain {
            self.looked(state);
        } else {
            let verify = &mut state.verify;
            verify.stage = VerifyStage::Next;
            verify.tries = IN_VAIN.min(verify.tries + 1);
        }
    }

    /// Nothing is left to be done for the region.
    fn looked(&self, state: &mut State) {
        let region = first(state.verify.left);
        if std::mem::take(&mut state.verify.hold) {
            state.clear(region, Word::H);
            self.release(state);
        }
        state.verify = Verify {
            stage: VerifyStage::Next,
            left: state.verify.left & !region,
            ..Verify::default()
        };
    }

    /// Something is about to be sent to these regions.
    pub fn disturb(&self, state: &mut State, regions: Regions, mistake: Mistake) {
        if !self.has(mistake) {
            state.verify.watched &= !regions;
        }
    }
}
