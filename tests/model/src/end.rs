// SPDX-License-Identifier: GPL-2.0

//! What the devices do with a user's bio, and its way out: `Mapping::entry_ended` and, for a write
//! of track, `Mapping::end`.
//!
//! That one of two legs has ended tells nobody anything, so it is no step: the last one's end is.

use crate::mistakes::Mistake;
use crate::model::{Mirror, Side};
use crate::route::first;
use crate::state::*;

impl Mirror {
    /// A leg takes effect on a block.
    pub fn apply(&self, state: &mut State, index: usize, side: Side, block: u8) {
        let bio = &mut state.bios[index];
        let bit = 1 << block;
        match side {
            Side::Backing => bio.backing.todo &= !bit,
            Side::Clone => bio.clone.todo &= !bit,
        }
        let bio = *bio;
        match side {
            Side::Backing => {
                if self.scenario.data() {
                    state.devices.backing[usize::from(block)] = bio.version;
                }
            }
            Side::Clone => {
                let fua = self.scenario.fua && !self.has(Mistake::NoFua);
                let version = bio.version | if bio.discard { ON_CLONE } else { 0 };
                self.write_clone(state, block, version, fua);
                self.write_beside(state, &bio, block);
                if !fua {
                    self.overwritten(state, bit);
                }
            }
        }
        self.leave_early(state, index);
    }

    /// What was promised of the blocks is no more: the user has written them again.
    fn overwritten(&self, state: &mut State, blocks: Blocks) {
        state.devices.promised &= !blocks;
        for bio in &mut state.bios {
            if matches!(
                bio.stage,
                Stage::FlushLooked | Stage::FlushWaiting | Stage::FlushSent | Stage::FlushServed
            ) {
                bio.noted &= !blocks;
            }
        }
    }

    /// A leg fails; it has changed any of its blocks.
    pub fn fault(&self, state: &mut State, index: usize, side: Side) {
        state.control.faults -= 1;
        state.control.failed |= side == Side::Clone;
        let bio = &mut state.bios[index];
        let leg = match side {
            Side::Backing => &mut bio.backing,
            Side::Clone => &mut bio.clone,
        };
        *leg = Leg {
            todo: 0,
            failed: true,
        };
        self.leave_early(state, index);
    }

    fn leave_early(&self, state: &mut State, index: usize) {
        let bio = &mut state.bios[index];
        bio.left |= self.has(Mistake::LeaveAtBackingEnd) && bio.backing.todo == 0;
    }

    /// The regions that a bio's end makes dirty.
    fn dirtied(&self, bio: &Bio) -> Regions {
        let all = touched(bio.range);
        let backing_failed = bio.backing.failed && !self.has(Mistake::BackingFailureWithoutD);
        let clone_failed = bio.clone.failed && !self.has(Mistake::CloneFailureWithoutD)
            || bio.lost && !self.has(Mistake::DuplicateIgnoresLosses);
        let dirty = match bio.kind {
            Kind::Track | Kind::Plain => match self.mistake {
                Some(Mistake::DirtyAtSubmit) => 0,
                Some(Mistake::PlainWithoutD) if bio.kind == Kind::Plain => 0,
                Some(Mistake::BackingOnlyWithoutD) if bio.backing_only => 0,
                Some(Mistake::PlainFailureWithoutD) if bio.backing.failed => 0,
                _ => all,
            },
            Kind::Duplicate | Kind::Partial if backing_failed => all,
            Kind::Duplicate | Kind::Partial if clone_failed => touched(bio.duplicated),
            Kind::Duplicate | Kind::Partial => 0,
            Kind::Discard if bio.backing.failed && !self.has(Mistake::DiscardFailureWithoutD) => {
                all
            }
            Kind::Discard => all & !self.covered(bio.range),
        };
        if self.has(Mistake::SpanDirtiesFirst) {
            return first(dirty);
        }
        dirty
    }

    /// All legs have ended.
    pub fn begin_end(&self, state: &mut State, index: usize) {
        let mut bio = state.bios[index];
        bio.dirty = self.dirtied(&bio);
        if self.scenario.data() && (!bio.discard || bio.backing.failed) {
            state.devices.unneeded &= !bio.range;
        }
        if bio.kind != Kind::Track {
            // What the clone's leg of a discard leaves is needed by nobody.
            if !bio.discard {
                state.flusher.current |= touched(bio.duplicated);
            }
            if bio.discard && self.has(Mistake::DiscardMarksAtEnd) {
                self.skip(state, bio.range);
                // Later writes are needed, whatever the regions say.
                state.devices.unneeded &= !bits(bio.range)
                    .filter(|block| state.devices.backing[usize::from(*block)] != bio.version)
                    .fold(0, |all, block| all | 1 << block);
            }
        }
        let first = match self.mistake {
            Some(Mistake::StepBackBeforeD) if bio.dirty != 0 => Ending::StepBack,
            _ => Ending::Dirty(bio.dirty),
        };
        bio.stage = Stage::Ending(first);
        if self.has(Mistake::LeaveBeforeD) {
            bio.left = true;
        }
        state.bios[index] = bio;
        if self.has(Mistake::EndBeforeD) && bio.dirty != 0 {
            state.bios[index].stage = Stage::Ended(first);
            self.tell(state, index);
            return;
        }
        if self.ends_at_once(&bio) {
            let writer = (bio.writer, bio.range);
            while let Some(at) = state.bios.iter().position(|bio| {
                (bio.writer, bio.range) == writer && matches!(bio.stage, Stage::Ending(_))
            }) {
                self.end_step(state, at);
            }
        } else {
            state.locked = bio.kind != Kind::Track && !bio.left;
            self.end_step(state, index);
        }
    }

    /// Whether nobody can tell the steps of an end from one: those of a critical section, as long
    /// as no mistake moves any of them out of it.
    fn ends_at_once(&self, bio: &Bio) -> bool {
        let moved = matches!(
            self.mistake,
            Some(Mistake::LeaveBeforeD | Mistake::StepBackAfterEnd | Mistake::StepBackBeforeD)
        );
        bio.kind != Kind::Track && !self.scenario.fine && !moved
    }

    /// One change that others may see without the lock; what follows it unseen is done with it.
    pub fn end_step(&self, state: &mut State, index: usize) {
        let bio = state.bios[index];
        let (Stage::Ending(step) | Stage::Ended(step)) = bio.stage else {
            return;
        };
        let told = matches!(bio.stage, Stage::Ended(_));
        let next = match step {
            Ending::Dirty(regions) => {
                let region = first(regions);
                let new = state.with(region, Word::D) == 0;
                state.set(region, Word::D);
                let steps_back = match self.mistake {
                    Some(Mistake::NoStepBack | Mistake::StepBackBeforeD) => false,
                    Some(Mistake::StepBackIfNew) => new,
                    Some(Mistake::BackingOnlyWithoutStepBack) => !bio.backing_only,
                    _ => true,
                };
                if regions != region {
                    Ending::Dirty(regions & !region)
                } else if regions != 0 && steps_back {
                    Ending::StepBack
                } else {
                    return self.end_bio(state, index, told);
                }
            }
            Ending::StepBack => {
                self.step_back(state);
                if self.has(Mistake::StepBackBeforeD) {
                    Ending::Dirty(bio.dirty)
                } else {
                    return self.end_bio(state, index, told);
                }
            }
        };
        let bio = &mut state.bios[index];
        bio.stage = if told {
            Stage::Ended(next)
        } else {
            Stage::Ending(next)
        };
        if next == Ending::StepBack && !told && self.has(Mistake::StepBackAfterEnd) {
            bio.stage = Stage::Ended(next);
            state.locked = false;
            self.tell(state, index);
        }
    }

    /// The table is left, and the user's bio ended.
    fn end_bio(&self, state: &mut State, index: usize, told: bool) {
        if state.bios[index].kind != Kind::Track && !state.bios[index].left {
            state.locked = false;
        }
        if !told {
            self.tell(state, index);
        }
        state.bios.remove(index);
    }

    /// A user's read or flush has ended.
    pub fn acknowledge(&self, state: &mut State, index: usize) {
        self.tell(state, index);
        state.bios.remove(index);
    }

    /// The user hears of the end.
    fn tell(&self, state: &mut State, index: usize) {
        let bio = state.bios[index];
        if bio.is_write() {
            let failed = if self.has(Mistake::StatusFromClone) && bio.duplicated != 0 {
                bio.clone.failed
            } else {
                bio.backing.failed
            };
            if failed != bio.backing.failed {
                state.wrong = Some(Wrong::Status);
            }
            // Where no flush ever comes, a write's end is all that its user can go by.
            if !bio.discard && self.scenario.data() && self.scenario.fua {
                state.devices.promised |= bio.range;
            }
        }
        let its = &mut state.writers[usize::from(bio.writer)];
        its.bios -= 1;
        if its.bios == 0 && its.rest == 0 {
            its.at += 1;
            if self.scenario.cyclic {
                its.at %= self.scenario.writers[usize::from(bio.writer)].len() as u8;
            }
        }
    }
}
