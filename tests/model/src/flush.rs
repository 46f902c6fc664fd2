// SPDX-License-Identifier: GPL-2.0

//! Flushes, of the user's and of the clone; what becomes of regions that the clone has lost; and
//! the way to `complete`.

use crate::mistakes::Mistake;
use crate::model::{Action, Mirror};
use crate::route::first;
use crate::scenario::Fault;
use crate::state::*;

impl Mirror {
    /// A user's flush looks at the phase: to the backing device only, or to both.
    pub fn map_flush(&self, state: &mut State, bio: &mut Bio) {
        let in_mode = state.mirror || !self.has(Mistake::FlushBackingOnlyInTrack);
        let both = in_mode && !state.detached && state.phase != Phase::Copying;
        bio.stage = if both {
            Stage::FlushLooked
        } else {
            Stage::FlushServed
        };
        bio.noted = state.devices.volatile & !state.changing();
    }

    pub fn flush_ended(&self, state: &mut State, index: usize) {
        let noted = state.bios[index].noted;
        state.devices.promised |= noted;
        self.acknowledge(state, index);
    }

    /// No flush of the clone is sent before a `start`.
    fn is_gone(&self, state: &State) -> bool {
        state.detached || state.flusher.broken
    }

    pub fn flush_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let waits = state
            .bios
            .iter()
            .any(|bio| bio.stage == Stage::FlushWaiting);
        match state.flusher.stage {
            FlusherStage::Idle if waits && self.is_gone(state) => actions.push(Action::EndWaiting),
            FlusherStage::Idle => {
                if !self.is_gone(state) && (waits || self.wants_flush(state)) {
                    actions.push(Action::BeginFlush);
                }
            }
            FlusherStage::InFlight => {
                // Also where there is nothing left that it could secure.
                actions.push(Action::FlushSecured);
                if state.flusher.doomed || self.may_fail(state, Fault::Flush) {
                    actions.push(Action::FlushFault);
                }
            }
            FlusherStage::Failed => actions.push(Action::Lose),
            FlusherStage::Suspecting | FlusherStage::Unsecured if state.loss == Loss::None => {
                actions.push(Action::EndRiding);
            }
            FlusherStage::Suspecting | FlusherStage::Unsecured => {}
            FlusherStage::StepBack => actions.push(Action::FlushStepBack),
        }
        match state.loss {
            Loss::None => {}
            Loss::Next(_) => actions.push(Action::SuspectNext),
            Loss::Suspect(..) => actions.push(Action::Suspect),
            Loss::StepBack(_) => actions.push(Action::SuspectStepBack),
        }
    }

    /// Whether the way to complete is at its flush (`Mapping::is_settled`). Backing-only writes in
    /// flight would lead away from there again, in mirror also those that began in track.
    fn wants_flush(&self, state: &State) -> bool {
        let plain = state.bios.iter().any(|bio| {
            let counts = match bio.kind {
                Kind::Plain => bio.is_entered(),
                // In track there may be others at any moment.
                Kind::Track => state.mirror && !self.has(Mistake::TrackUnsettled),
                _ => false,
            };
            counts && bio.is_write()
        });
        state.completer == Completer::Look
            && state.control.suspend == Suspend::Running
            && (!plain || self.has(Mistake::NoGracePeriod))
    }

    /// Serves all that wait by now.
    pub fn begin_flush(&self, state: &mut State) {
        // What it finds of writes that have not ended may be secured or not.
        let mut unsure = state
            .bios
            .iter()
            .filter(|bio| bio.is_write() && bio.is_changing())
            .fold(0, |all, bio| all | bio.duplicated & !bio.clone.todo);
        for job in &state.jobs {
            if matches!(job.stage, JobStage::Writing | JobStage::Failed) {
                unsure |= job.changed;
            }
        }
        let completing = self.wants_flush(state);
        let flusher = &mut state.flusher;
        flusher.stage = FlusherStage::InFlight;
        flusher.secures = state.devices.volatile & !unsure;
        flusher.sent |= std::mem::take(&mut flusher.current);
        flusher.completing = completing;
        if completing {
            state.completer = Completer::Flushing;
        }
        self.serve(state, Stage::FlushWaiting, Stage::FlushSent);
        if completing && self.has(Mistake::DeclaredBeforeFlushed) {
            state.flusher.completing = false;
            state.completer = Completer::Complete;
        }
    }

    fn serve(&self, state: &mut State, from: Stage, to: Stage) {
        for bio in &mut state.bios {
            if bio.stage == from {
                bio.stage = to;
            }
        }
    }

    /// Those that wait for a flush that is not sent any more: all of it is dirty already, or will
    /// be before the phase is complete again.
    pub fn end_waiting(&self, state: &mut State) {
        self.serve(state, Stage::FlushWaiting, Stage::FlushServed);
    }

    pub fn flush_secured(&self, state: &mut State) {
        let flusher = &mut state.flusher;
        if std::mem::take(&mut flusher.doomed) && !self.has(Mistake::FlushIgnoresLosses) {
            flusher.stage = FlusherStage::Unsecured;
            flusher.secures = 0;
            return self.suspect_unflushed(state);
        }
        flusher.stage = FlusherStage::Idle;
        state.devices.volatile &= !std::mem::take(&mut flusher.secures);
        flusher.sent = 0;
        if std::mem::take(&mut flusher.completing) {
            state.completer = Completer::Complete;
        }
        self.serve(state, Stage::FlushSent, Stage::FlushServed);
        if self.has(Mistake::FlushJoinsOneInFlight) {
            self.serve(state, Stage::FlushWaiting, Stage::FlushServed);
        }
    }

    /// The worst that a failed flush, or a clone that is gone, can mean.
    pub fn lose_cache(&self, state: &mut State) {
        for block in bits(std::mem::take(&mut state.devices.volatile)) {
            state.devices.clone[usize::from(block)] = LOST;
        }
        for bio in &mut state.bios {
            if matches!(bio.stage, Stage::FailOver(_) | Stage::ReadClone) {
                bio.noted = u8::MAX;
            }
        }
        state.flusher.doomed = state.flusher.stage == FlusherStage::InFlight;
    }

    pub fn flush_fault(&self, state: &mut State) {
        if !state.flusher.doomed {
            state.control.faults -= 1;
            self.lose_cache(state);
        }
        state.flusher.doomed = false;
        state.flusher.stage = FlusherStage::Failed;
        state.flusher.secures = 0;
    }

    /// `flush::ended`: counted first, so that what ends from now on without a mark is dirty.
    pub fn flush_lose(&self, state: &mut State) {
        state.lose();
        state.flusher.stage = FlusherStage::Suspecting;
        if self.has(Mistake::FailedFlushWithoutD) {
            state.flusher.sent = 0;
        } else if self.has(Mistake::FailedFlushDAfterEnd) {
            self.serve(state, Stage::FlushSent, Stage::FlushServed);
            self.suspect_unflushed(state);
        } else {
            self.suspect_unflushed(state);
        }
    }

    /// One pass over the marks: what is marked during it, by a job above all, was written after the
    /// loss, and more could come for ever. Two losses at once are looked after in one pass.
    pub fn suspect_unflushed(&self, state: &mut State) {
        state.loss = match state.loss {
            Loss::None | Loss::Next(_) => Loss::Next(BOTH),
            Loss::Suspect(region, _) => Loss::Suspect(region, BOTH),
            Loss::StepBack(_) => Loss::StepBack(BOTH),
        };
    }

    pub fn end_riding(&self, state: &mut State) {
        if state.flusher.stage == FlusherStage::Unsecured {
            state.flusher.stage = FlusherStage::Idle;
            if std::mem::take(&mut state.flusher.completing) {
                state.completer = Completer::Idle;
            }
            return self.serve(state, Stage::FlushSent, Stage::FlushServed);
        }
        let late = self.has(Mistake::FailedFlushStepsBackAfterEnd);
        if !late {
            self.step_back(state);
        }
        state.control.paused = true;
        let flusher = &mut state.flusher;
        flusher.stage = if late {
            FlusherStage::StepBack
        } else {
            FlusherStage::Idle
        };
        flusher.broken = true;
        if std::mem::take(&mut flusher.completing) {
            state.completer = Completer::Idle;
        }
        self.serve(state, Stage::FlushSent, Stage::FlushServed);
    }

    /// Only for a mistake: those that it was to serve have heard of its end already.
    pub fn flush_step_back(&self, state: &mut State) {
        self.step_back(state);
        state.flusher.stage = FlusherStage::Idle;
    }

    /// Takes the mark of one more region away.
    pub fn suspect_next(&self, state: &mut State) {
        let Loss::Next(left) = state.loss else {
            return;
        };
        let flusher = &mut state.flusher;
        let region = first((flusher.sent | flusher.current) & left);
        flusher.sent &= !region;
        flusher.current &= !region;
        let behind = if self.has(Mistake::SuspectUntilNone) {
            BOTH
        } else {
            // Those above it.
            BOTH & !(region | region.wrapping_sub(1))
        };
        state.loss = match region {
            0 => Loss::None,
            _ => Loss::Suspect(region, behind),
        };
    }

    /// D, also where it is skipped: what was written since then is needed.
    pub fn suspect(&self, state: &mut State) {
        if let Loss::Suspect(region, left) = state.loss {
            let skipped = state.with(region, Word::S);
            if skipped == 0 || !self.has(Mistake::SuspectLeavesSkipped) {
                state.set(region, Word::D);
            }
            state.loss = if self.has(Mistake::FailedFlushStepsBackAfterEnd) {
                Loss::Next(left)
            } else {
                Loss::StepBack(left)
            };
        }
    }

    pub fn suspect_step_back(&self, state: &mut State) {
        self.step_back(state);
        if let Loss::StepBack(left) = state.loss {
            state.loss = Loss::Next(left);
        }
    }

    pub fn completer_actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.completer {
            Completer::Idle => {
                let looks = state.phase != Phase::Complete
                    && state.control.suspend == Suspend::Running
                    && !self.is_gone(state);
                // Where copying has no end, what it does then is not looked at.
                let looks = looks && !self.scenario.endless;
                if looks && state.with(BOTH, Word::D | Word::C) == 0 {
                    actions.push(Action::AtRest);
                }
            }
            Completer::Begin => actions.push(Action::BeginCompleting),
            Completer::Scan(_) => actions.push(Action::IsClean),
            Completer::GiveUp => actions.push(Action::StepBack),
            Completer::Look => {
                if self.is_gone(state) || state.control.suspend != Suspend::Running {
                    actions.push(Action::StepBack);
                }
            }
            Completer::Flushing => {}
            Completer::Complete => actions.push(Action::Complete),
        }
    }

    pub fn begin_completing(&self, state: &mut State) {
        if self.has(Mistake::ScanBeforeCompleting) {
            state.completer = if state.phase == Phase::Copying {
                Completer::Scan(BOTH)
            } else {
                Completer::Look
            };
            return;
        }
        self.completing(state);
        state.completer = Completer::Scan(BOTH);
    }

    fn completing(&self, state: &mut State) {
        if !self.has(Mistake::NoCompletingState) {
            state.phase = Phase::Completing;
        }
        // Whatever has ended by now has to be durable when it is complete.
        state.devices.promised |= state.devices.volatile & !state.changing();
    }

    /// A word after another is looked at.
    pub fn is_clean(&self, state: &mut State) {
        let Completer::Scan(left) = state.completer else {
            return;
        };
        let region = first(left);
        state.completer = if state.with(region, Word::D | Word::C) != 0 {
            Completer::GiveUp
        } else if left != region {
            Completer::Scan(left & !region)
        } else {
            if self.has(Mistake::ScanBeforeCompleting) {
                self.completing(state);
            }
            Completer::Look
        };
    }

    pub fn give_up_completing(&self, state: &mut State) {
        self.step_back(state);
        state.completer = Completer::Idle;
    }

    pub fn complete(&self, state: &mut State) {
        if state.phase == Phase::Completing || self.has(Mistake::NoCompletingState) {
            state.phase = Phase::Complete;
        }
        state.completer = Completer::Idle;
    }
}
