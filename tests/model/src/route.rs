// SPDX-License-Identifier: GPL-2.0

//! The way of a user's bio in: `Mapping::map`, `Mapping::admit` and `Mapping::reroute`.

use crate::mistakes::Mistake;
use crate::model::{Action, Mirror, Side};
use crate::scenario::{Fault, Op};
use crate::state::*;

impl Mirror {
    pub fn user_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let blocked = !matches!(
            state.control.suspend,
            Suspend::Running | Suspend::Presuspend
        );
        for writer in 0..self.scenario.writers.len() as u8 {
            let its = state.writers[usize::from(writer)];
            if its.rest != 0 {
                actions.push(Action::AdmitRest(writer));
            } else if its.bios == 0 && !blocked {
                match self.operation(writer, its.at) {
                    None => {}
                    Some(Op::Write(_) | Op::Whole(_) | Op::BackingOnly(_))
                        if !state.all_enter() =>
                    {
                        actions.push(Action::Map(writer));
                    }
                    Some(Op::Flush | Op::Read(_)) => actions.push(Action::Map(writer)),
                    Some(_) => actions.push(Action::Admit(writer)),
                }
            }
        }
        for index in 0..state.bios.len() {
            self.bio_actions(state, index, actions);
        }
        if let Some(index) = (0..state.bios.len()).find(|index| self.may_go(state, *index)) {
            actions.push(Action::Reroute(index));
        }
    }

    fn bio_actions(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let bio = &state.bios[index];
        match bio.stage {
            Stage::Waiting(_) | Stage::FlushWaiting | Stage::FlushSent => {}
            Stage::Decided(_) | Stage::ToHold => actions.push(Action::Enter(index)),
            Stage::InFlight => {
                for (side, leg, fault) in [
                    (Side::Backing, bio.backing, Fault::Backing),
                    (Side::Clone, bio.clone, Fault::Clone),
                ] {
                    if side == Side::Clone && self.has_to_fetch(bio) {
                        actions.push(Action::Fill(index));
                    } else {
                        let apply = |block| Action::Apply(index, side, block);
                        actions.extend(bits(leg.todo).map(apply));
                    }
                    let has_leg = side == Side::Backing || bio.duplicated != 0;
                    if has_leg && !leg.failed && self.may_fail(state, fault) {
                        actions.push(Action::Fault(index, side));
                    }
                }
                let told = !(bio.clone.failed && state.control.failed);
                if bio.backing.todo | bio.clone.todo == 0 && told {
                    actions.push(match bio.kind {
                        Kind::Track => Action::End(index),
                        _ => Action::EntryEnded(index),
                    });
                }
            }
            Stage::Ending(_) | Stage::Ended(_) => actions.push(match bio.kind {
                Kind::Track => Action::EndStep(index),
                _ => Action::EntryEndedStep(index),
            }),
            Stage::FlushLooked => actions.push(Action::MapFlush(index)),
            Stage::FlushServed => actions.push(Action::FlushEnded(index)),
            Stage::Read => {
                actions.push(Action::ReadEnded(index));
                if self.may_fail(state, Fault::Read) {
                    actions.push(Action::ReadFault(index));
                }
            }
            Stage::FailOver(_) => actions.push(Action::ReadFailed(index)),
            Stage::ReadClone => actions.push(Action::Fallback(index)),
        }
    }

    fn bio(&self, state: &mut State, writer: u8) -> Bio {
        let its = &mut state.writers[usize::from(writer)];
        its.bios += 1;
        let op = self.operation(writer, its.at);
        let (range, version) = match op {
            Some(
                Op::Write(range) | Op::Whole(range) | Op::BackingOnly(range) | Op::Discard(range),
            ) => (range, self.version(writer, its.at)),
            Some(Op::Read(range)) => (range, 0),
            Some(Op::Flush) | None => (0, 0),
        };
        Bio {
            writer,
            version,
            range,
            stage: Stage::InFlight,
            kind: Kind::Plain,
            held: false,
            discard: matches!(op, Some(Op::Discard(_))),
            backing_only: matches!(op, Some(Op::BackingOnly(_))),
            left: false,
            duplicated: 0,
            fetched: false,
            beside: [0; BLOCKS],
            backing: Leg::default(),
            clone: Leg::default(),
            lost: false,
            dirty: 0,
            noted: 0,
        }
    }

    fn version(&self, writer: u8, at: u8) -> Version {
        if self.scenario.data() {
            writer * 8 + at + 1
        } else {
            1
        }
    }

    /// What takes no lock: a write in track, a flush, a read.
    pub fn map(&self, state: &mut State, writer: u8) {
        let mut bio = self.bio(state, writer);
        match self.operation(writer, state.writers[usize::from(writer)].at) {
            Some(Op::Flush) => self.map_flush(state, &mut bio),
            Some(Op::Read(_)) => {
                bio.stage = Stage::Read;
                bio.noted = state.changing();
            }
            _ if self.has(Mistake::StaleMode) => bio.stage = Stage::Decided(Kind::Track),
            _ => self.submit(state, &mut bio, Kind::Track, 0),
        }
        state.bios.push(bio);
    }

    /// A write in mirror, a discard in both modes.
    pub fn admit(&self, state: &mut State, writer: u8) {
        let bio = self.bio(state, writer);
        self.admit_bio(state, bio);
    }

    /// What a split has left comes as a bio of its own.
    pub fn admit_rest(&self, state: &mut State, writer: u8) {
        let mut bio = self.bio(state, writer);
        bio.range = std::mem::take(&mut state.writers[usize::from(writer)].rest);
        self.admit_bio(state, bio);
    }

    fn admit_bio(&self, state: &mut State, mut bio: Bio) {
        let op = self.operation(bio.writer, state.writers[usize::from(bio.writer)].at);
        let may_split = matches!(op, Some(Op::Write(_)));
        let last = state.bios.len();
        self.route(state, &mut bio, last, may_split);
        let two_steps = match bio.stage {
            Stage::Waiting(Wait::Hold) => self.has(Mistake::QueuedWithoutH),
            Stage::InFlight if bio.discard => matches!(
                self.mistake,
                Some(Mistake::DiscardClearsDFirst | Mistake::DiscardSetsSFirst)
            ),
            Stage::InFlight if bio.kind == Kind::Plain => {
                self.has(Mistake::LookThenEnter) || self.has(Mistake::RegisterAfterLook)
            }
            Stage::InFlight => self.has(Mistake::LookThenEnter),
            _ => false,
        };
        if two_steps {
            bio.stage = match bio.stage {
                Stage::InFlight => Stage::Decided(bio.kind),
                _ => Stage::ToHold,
            };
        }
        state.bios.push(bio);
    }

    /// Only for mistakes: what was decided is done in a step of its own.
    pub fn enter(&self, state: &mut State, index: usize) {
        let mut bio = state.bios.remove(index);
        if bio.discard && bio.stage != Stage::ToHold {
            self.skip(state, bio.range);
        }
        match bio.stage {
            Stage::Decided(Kind::Track) => {
                let enters = state.all_enter();
                let kind = if enters { Kind::Plain } else { Kind::Track };
                self.submit(state, &mut bio, kind, 0);
            }
            Stage::Decided(_) => bio.stage = Stage::InFlight,
            _ => bio.stage = Stage::Waiting(Wait::Hold),
        }
        state.bios.push(bio);
    }

    /// Whether something in flight, or that waits and came before the entry at `index`, keeps
    /// overlapping duplicates and discards back.
    fn conflicts(&self, state: &State, range: Blocks, index: usize) -> bool {
        let range = self.rounded_out(range);
        state.bios.iter().enumerate().any(|(other, bio)| {
            other != index
                && bio.range & range != 0
                && bio.is_write()
                && (bio.is_waiting() && other < index
                    || bio.is_entered() && bio.kind != Kind::Plain)
        })
    }

    /// The decision, and all that is done in the same critical section.
    fn route(&self, state: &mut State, bio: &mut Bio, index: usize, may_split: bool) {
        let regions = touched(bio.range);
        if state.with(regions, Word::H) != 0 && !bio.held && state.holding {
            bio.stage = Stage::Waiting(Wait::Hold);
            return;
        }
        if bio.discard {
            return self.route_discard(state, bio, index);
        }
        let mut not = state.with(
            regions,
            match self.mistake {
                Some(Mistake::DuplicateIgnoresC) => Word::D,
                Some(Mistake::SkippedBackingOnly) => Word::D | Word::C | Word::S,
                _ => Word::D | Word::C,
            },
        );
        if self.has(Mistake::SpanLooksFirst) && not & first(regions) == 0 {
            not = 0;
        }
        if bio.backing_only || state.detached || !state.mirror || not == regions {
            return self.submit(state, bio, Kind::Plain, 0);
        }
        let mut kind = Kind::Duplicate;
        if not != 0 || self.is_part(bio.range) && regions == BOTH {
            if may_split {
                let run = first(regions);
                let its = &mut state.writers[usize::from(bio.writer)];
                its.rest = bio.range & !blocks_of(run);
                bio.range &= blocks_of(run);
                return self.route(state, bio, index, false);
            }
            if not != 0 {
                kind = Kind::Partial;
            }
        }
        if self.conflicts(state, bio.range, index) && !self.has(Mistake::NoOrder) {
            bio.stage = Stage::Waiting(Wait::Overlap);
            return;
        }
        if kind == Kind::Partial && !self.has(Mistake::PartialWithoutD) {
            state.set(not, Word::D);
            if !self.has(Mistake::PartialWithoutStepBack) {
                self.step_back(state);
            }
        }
        let duplicated = bio.range & !blocks_of(not);
        self.submit(state, bio, kind, duplicated);
    }

    fn route_discard(&self, state: &mut State, bio: &mut Bio, index: usize) {
        if self.conflicts(state, bio.range, index) && !self.has(Mistake::NoOrder) {
            bio.stage = Stage::Waiting(Wait::Overlap);
            return;
        }
        let covered = self.covered(bio.range);
        match self.mistake {
            Some(Mistake::DiscardMarksAtEnd) => {}
            Some(Mistake::DiscardClearsDFirst) => state.clear(covered, Word::D),
            Some(Mistake::DiscardSetsSFirst) => state.set(covered, Word::S),
            _ => self.skip(state, bio.range),
        }
        // Where data is not looked at, what it does to the clone matters to nobody.
        let both = !state.detached && self.scenario.data();
        let mut duplicated = if both { bio.range } else { 0 };
        if self.is_part(duplicated) {
            duplicated &= blocks_of(covered);
        }
        self.submit(state, bio, Kind::Discard, duplicated);
        bio.left = self.has(Mistake::DiscardNotInTable);
    }

    /// S=1 D=0 on the regions that lie whole in a range.
    pub fn skip(&self, state: &mut State, range: Blocks) {
        let regions = self.covered(range);
        state.set(regions, Word::S);
        state.clear(regions, Word::D);
        if self.scenario.data() {
            state.devices.unneeded |= blocks_of(regions) & range;
        }
    }

    /// The regions that lie whole in a range.
    pub fn covered(&self, range: Blocks) -> Regions {
        let not = touched(self.scenario.blocks & !range);
        if self.has(Mistake::PartCoveredSkipped) {
            return touched(range);
        }
        touched(range) & !not
    }

    /// Both legs are sent; what they write takes effect whenever it likes.
    fn submit(&self, state: &mut State, bio: &mut Bio, kind: Kind, duplicated: Blocks) {
        bio.stage = Stage::InFlight;
        bio.kind = kind;
        bio.lost = false;
        bio.duplicated = duplicated;
        bio.backing.todo = bio.range;
        bio.clone.todo = duplicated;
        if kind != Kind::Track {
            self.disturb(state, touched(bio.range), Mistake::AdmitKeepsWatch);
        }
        for read in &mut state.bios {
            if !read.is_write() && matches!(read.stage, Stage::FailOver(_) | Stage::ReadClone) {
                read.noted |= bio.range;
            }
        }
        if self.has(Mistake::DirtyAtSubmit) && matches!(kind, Kind::Track | Kind::Plain) {
            state.set(touched(bio.range), Word::D);
            self.step_back(state);
        }
    }

    /// The worker: what may go on of that which waits.
    fn may_go(&self, state: &State, index: usize) -> bool {
        let bio = &state.bios[index];
        match bio.stage {
            Stage::Waiting(Wait::Released) => true,
            Stage::Waiting(Wait::Overlap) => !self.conflicts(state, bio.range, index),
            _ => false,
        }
    }

    pub fn reroute(&self, state: &mut State, index: usize) {
        let mut bio = state.bios[index];
        if self.has(Mistake::NoLookAfterWait) && bio.stage == Stage::Waiting(Wait::Overlap) {
            let range = bio.range;
            self.submit(state, &mut bio, Kind::Duplicate, range);
        } else {
            self.route(state, &mut bio, index, false);
        }
        state.bios[index] = bio;
    }
}

/// The first of these regions.
pub fn first(regions: Regions) -> Regions {
    regions & regions.wrapping_neg()
}
