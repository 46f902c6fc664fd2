// SPDX-License-Identifier: GPL-2.0

//! A job: `Mapping::claim`, the hold claim, and what gives its regions back.

use crate::mistakes::Mistake;
use crate::model::{Action, Mirror};
use crate::route::first;
use crate::scenario::Fault;
use crate::state::*;

impl Mirror {
    pub fn job_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for number in 0..self.scenario.jobs {
            let job = &state.jobs[usize::from(number)];
            match job.stage {
                JobStage::Idle => self.claim_actions(state, number, actions),
                JobStage::Looked => actions.push(Action::Claim(number, job.run)),
                JobStage::Draining => {
                    if !self.drains(state, job.run) {
                        actions.push(Action::IsDrained(number));
                    } else if self.has(Mistake::PutBackWhileHolding) {
                        actions.push(Action::PutBack(number));
                    }
                }
                JobStage::Reading if job.todo == 0 && self.is_barred(state) => {
                    actions.push(Action::PutBack(number));
                }
                JobStage::Reading => {
                    actions.push(Action::Read(number));
                    if self.may_fail(state, Fault::JobRead) {
                        actions.push(Action::JobFault(number));
                    }
                }
                JobStage::Writing => {
                    actions.push(Action::Write(number));
                    if self.may_fail(state, Fault::JobWrite) {
                        actions.push(Action::JobFault(number));
                    }
                }
                JobStage::Failed => actions.push(Action::Failed(number)),
                JobStage::Written => actions.push(Action::Account(number)),
                JobStage::Marked => actions.push(Action::GiveBack(number)),
                JobStage::Copied => actions.push(Action::Copied(number)),
                JobStage::GiveUp(_) => actions.push(Action::GiveUp(number)),
                JobStage::EndHold => actions.push(Action::EndHold(number)),
            }
        }
        if state.stray.is_some() {
            actions.push(Action::StrayWrite);
        }
        let held = state.jobs.iter().any(|job| job.hold) || state.verify.hold;
        if held && state.control.timers > 0 {
            actions.push(Action::EndLateHold);
        }
    }

    fn is_barred(&self, state: &State) -> bool {
        state.detached || state.control.suspend != Suspend::Running
    }

    fn claim_actions(&self, state: &State, number: u8, actions: &mut Vec<Action>) {
        if state.control.paused || self.is_barred(state) {
            return;
        }
        for run in 1..=BOTH {
            if run == BOTH && !self.scenario.runs {
                continue;
            }
            let free = state.with(run, Word::D) == run
                && (state.with(run, Word::C) == 0 || self.has(Mistake::SecondJob));
            if !free {
                continue;
            }
            let refused = self.in_the_way(state, run) != 0;
            let held = state.with(BOTH, Word::H) != 0 && !self.has(Mistake::TwoHolds);
            let tried = bits(run).any(|region| state.words[usize::from(region)].tries() >= 2);
            let holds =
                tried && state.mirror && state.holding && !held && !self.escapes(state, run);
            if holds && !self.has(Mistake::NoHold) {
                actions.push(Action::HoldClaim(number, run));
            } else if refused {
                actions.push(Action::ClaimRefused(number, run));
            } else if self.has(Mistake::LookBeforeC) {
                actions.push(Action::Look(number, run));
            } else {
                actions.push(Action::Claim(number, run));
            }
        }
    }

    /// The regions of a run that a duplicate or a discard in flight keeps a job away from.
    fn in_the_way(&self, state: &State, run: Regions) -> Regions {
        let looks = match self.mistake {
            Some(Mistake::NoTableLook) => false,
            Some(Mistake::NoLookInTrack) => state.mirror,
            _ => true,
        };
        let entries = state
            .bios
            .iter()
            .filter(|bio| looks && bio.is_write() && bio.is_entered() && bio.kind != Kind::Plain);
        entries.fold(0, |all, bio| all | touched(bio.range)) & run
    }

    /// Whether something waits that a hold could not hold again: it would come between the job's
    /// claim and its end, and what is held meanwhile would do so to the next hold.
    pub fn escapes(&self, state: &State, run: Regions) -> bool {
        let counts = !self.has(Mistake::HoldWithHeldWaiting);
        state
            .bios
            .iter()
            .any(|bio| counts && bio.held && bio.is_waiting() && bio.range & blocks_of(run) != 0)
    }

    /// Whether a hold still waits for something in flight, of any kind.
    fn drains(&self, state: &State, run: Regions) -> bool {
        state.bios.iter().any(|bio| {
            let counts = bio.is_entered()
                && !(bio.kind == Kind::Plain && self.has(Mistake::HoldWithoutGrace))
                || bio.is_waiting() && bio.is_write() && self.has(Mistake::HeldInTable);
            counts && bio.range & blocks_of(run) != 0 && !self.has(Mistake::HoldWithoutDrain)
        })
    }

    fn begin(&self, state: &mut State, number: u8, stage: JobStage, run: Regions) {
        state.jobs[usize::from(number)] = Job {
            stage,
            run,
            hold: stage == JobStage::Draining,
            todo: blocks_of(run) & self.scenario.blocks,
            ..Job::default()
        };
    }

    /// Only for a mistake: nothing is in the way, and the claim comes later.
    pub fn look(&self, state: &mut State, number: u8, run: Regions) {
        self.begin(state, number, JobStage::Looked, run);
    }

    pub fn claim(&self, state: &mut State, number: u8, run: Regions) {
        self.begin(state, number, JobStage::Reading, run);
        self.disturb(state, run, Mistake::ClaimKeepsWatch);
        if !self.has(Mistake::NoC) {
            state.set(run, Word::C);
        }
        self.not_dirty(state, run);
    }

    fn not_dirty(&self, state: &mut State, run: Regions) {
        let late = matches!(
            self.mistake,
            Some(Mistake::DClearedAfterRead | Mistake::DClearedAtJobEnd)
        );
        state.clear(run, Word::S | if late { 0 } else { Word::D });
        state.devices.unneeded &= !blocks_of(run);
    }

    pub fn refuse(&self, state: &mut State, run: Regions) {
        if self.has(Mistake::RefusalsUncounted) {
            return;
        }
        for region in bits(self.in_the_way(state, run)) {
            state.words[usize::from(region)].try_more();
        }
    }

    pub fn hold_claim(&self, state: &mut State, number: u8, run: Regions) {
        self.begin(state, number, JobStage::Draining, run);
        state.set(run, Word::C | Word::H);
        self.disturb(state, run, Mistake::ClaimKeepsWatch);
    }

    pub fn is_drained(&self, state: &mut State, number: u8) {
        let job = &mut state.jobs[usize::from(number)];
        job.stage = JobStage::Reading;
        let run = job.run;
        self.not_dirty(state, run);
    }

    /// The next block is read.
    pub fn read(&self, state: &mut State, number: u8) {
        let data = self.scenario.data();
        let job = &mut state.jobs[usize::from(number)];
        // Without data the blocks make no difference.
        let block = if data { first(job.todo) } else { job.todo };
        for block in bits(block).map(usize::from) {
            if data {
                job.buffer[block] = state.devices.backing[block];
            }
        }
        job.todo &= !block;
        let run = job.run;
        if job.todo == 0 && !self.is_barred(state) {
            let job = &mut state.jobs[usize::from(number)];
            job.stage = JobStage::Writing;
            job.todo = blocks_of(run) & self.scenario.blocks;
            if self.has(Mistake::CClearedBeforeWriteEnded) {
                state.clear(run, Word::C);
            }
        }
        let read = state.jobs[usize::from(number)].stage == JobStage::Writing;
        if read && self.has(Mistake::DClearedAfterRead) {
            state.clear(run, Word::D);
        }
    }

    /// The next block is written.
    pub fn write(&self, state: &mut State, number: u8) {
        let data = self.scenario.data();
        let job = &mut state.jobs[usize::from(number)];
        let block = if data { first(job.todo) } else { job.todo };
        job.todo &= !block;
        if job.todo == 0 {
            job.stage = JobStage::Written;
        }
        let buffer = job.buffer;
        for block in bits(block) {
            let version = buffer[usize::from(block)];
            // To write what is there does not make it less durable.
            if state.devices.clone[usize::from(block)] != version {
                state.jobs[usize::from(number)].changed |= 1 << block;
                self.write_clone(state, block, version, false);
            }
        }
    }

    /// A bio of the job fails; it has changed none of its blocks, or all that were written.
    pub fn job_fault(&self, state: &mut State, number: u8) {
        state.control.faults -= 1;
        let job = &mut state.jobs[usize::from(number)];
        job.clone_failed = job.stage == JobStage::Writing;
        if job.clone_failed && self.has(Mistake::JobEndsInFlight) {
            // The first bio fails, the last one is still in flight.
            state.stray = bits(job.todo)
                .last()
                .map(|block| (block, job.buffer[usize::from(block)]));
        }
        job.stage = JobStage::Failed;
        job.todo = 0;
    }

    pub fn stray_write(&self, state: &mut State) {
        if let Some((block, version)) = state.stray.take() {
            self.write_clone(state, block, version, false);
        }
    }

    /// `complete::failed` acts on the failure before the regions are given back.
    pub fn job_failed(&self, state: &mut State, number: u8) {
        let clone_failed = state.jobs[usize::from(number)].clone_failed;
        self.failed(state, clone_failed);
        self.not_copied(state, number);
    }

    /// `complete::put_back`.
    pub fn put_back(&self, state: &mut State, number: u8) {
        if state.jobs[usize::from(number)].stage == JobStage::Draining {
            self.drop_holds(state);
        } else {
            self.not_copied(state, number);
        }
    }

    /// D, then not C.
    fn not_copied(&self, state: &mut State, number: u8) {
        let run = state.jobs[usize::from(number)].run;
        if self.has(Mistake::CClearedBeforeD) {
            state.clear(run, Word::C);
        }
        let dirty = if self.has(Mistake::PutBackLosesD) {
            0
        } else {
            run
        };
        state.jobs[usize::from(number)].stage = JobStage::GiveUp(dirty);
    }

    /// `RegionMap::give_up`, which is one step in the code. What was discarded meanwhile is
    /// skipped.
    pub fn give_up(&self, state: &mut State, number: u8) {
        let job = &mut state.jobs[usize::from(number)];
        let JobStage::GiveUp(left) = job.stage else {
            return;
        };
        let (run, region) = (job.run, first(left));
        job.stage = JobStage::GiveUp(left & !region);
        if region == 0 {
            state.clear(run, Word::C);
            self.end_job(state, number);
        } else if state.with(region, Word::S) == 0 {
            state.set(region, Word::D);
        }
    }

    /// `complete::account`: what was written may be in the clone's cache only.
    pub fn account(&self, state: &mut State, number: u8) {
        let job = &mut state.jobs[usize::from(number)];
        job.stage = JobStage::Marked;
        state.flusher.current |= job.run;
    }

    /// `complete::give_back`: a loss that comes after this look finds the marks.
    pub fn give_back(&self, state: &mut State, number: u8) {
        let job = &mut state.jobs[usize::from(number)];
        if job.lost && !self.has(Mistake::JobIgnoresLosses) {
            return self.not_copied(state, number);
        }
        job.stage = JobStage::Copied;
    }

    /// `Mapping::copied`. Writes that went to the backing device only and have not ended will make
    /// their regions dirty: that counts as a try, or else such writes could disturb one copy after
    /// another, each just after its end.
    pub fn copied(&self, state: &mut State, number: u8) {
        let job = state.jobs[usize::from(number)];
        let plain = state
            .bios
            .iter()
            .filter(|bio| bio.kind == Kind::Plain && bio.is_write() && bio.is_entered())
            .fold(0, |all, bio| all | touched(bio.range));
        let counts = !self.has(Mistake::OnlyDisturbedCounted);
        for region in bits(job.run) {
            let word = &mut state.words[usize::from(region)];
            if self.has(Mistake::DClearedAtJobEnd) {
                word.clear(Word::D);
            }
            word.clear(Word::C);
            if word.has(Word::D) || counts && plain >> region & 1 != 0 {
                word.try_more();
            } else {
                word.forget_tries();
            }
        }
        self.end_job(state, number);
    }

    /// `complete::end`.
    fn end_job(&self, state: &mut State, number: u8) {
        let job = &mut state.jobs[usize::from(number)];
        if job.hold && !(self.has(Mistake::HAfterError) && job.clone_failed) {
            job.stage = JobStage::EndHold;
        } else {
            *job = Job::default();
        }
    }

    /// `Mapping::end_hold`, unless that hold is over.
    pub fn end_hold(&self, state: &mut State, number: u8) {
        let job = std::mem::take(&mut state.jobs[usize::from(number)]);
        if job.hold {
            state.clear(job.run, Word::H);
            self.release(state);
        }
    }

    /// What waits for a hold that is over: it is not held again.
    pub fn release(&self, state: &mut State) {
        for index in 0..state.bios.len() {
            let bio = state.bios[index];
            if bio.stage == Stage::Waiting(Wait::Hold)
                && state.with(touched(bio.range), Word::H) == 0
            {
                state.bios[index].stage = Stage::Waiting(Wait::Released);
                state.bios[index].held = !self.has(Mistake::HeldTwice);
            }
        }
    }

    /// A hold ends before its job does: by the timer, or as a suspend begins.
    pub fn drop_holds(&self, state: &mut State) {
        for number in 0..state.jobs.len() {
            let job = &mut state.jobs[number];
            if !std::mem::take(&mut job.hold) {
                continue;
            }
            let run = job.run;
            if job.stage == JobStage::Draining {
                *job = Job::default();
                state.clear(run, Word::C);
            }
            state.clear(run, Word::H);
        }
        if std::mem::take(&mut state.verify.hold) {
            state.clear(first(state.verify.left), Word::H);
        }
        self.release(state);
    }

    pub fn end_late_hold(&self, state: &mut State) {
        state.control.timers -= 1;
        self.drop_holds(state);
    }
}
