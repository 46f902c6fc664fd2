// SPDX-License-Identifier: GPL-2.0

//! Messages, failures that stop the copy or detach the clone, and a suspend.

use crate::mistakes::Mistake;
use crate::model::{Action, Mirror};
use crate::scenario::Message;
use crate::state::*;

impl Mirror {
    pub fn control_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let control = &state.control;
        if control.failed {
            actions.push(Action::LegFailed);
        }
        // What a failure has stopped is started again at last, but not in its midst
        // (`Engine::failing`).
        let midst = state.loss != Loss::None && !self.has(Mistake::StartInItsMidst);
        if (state.detached || state.flusher.broken || control.stopped) && !midst {
            actions.push(Action::Start);
        }
        if control.skipping != 0 {
            actions.push(Action::Message);
            return;
        }
        if control.switching {
            actions.push(Action::SetMode);
            return;
        }
        let message = self.scenario.messages.get(usize::from(control.at));
        match control.suspend {
            Suspend::Running => match message {
                Some(Message::Resume | Message::Reload) | None => {}
                Some(_) => actions.push(Action::Message),
            },
            Suspend::Presuspend => actions.push(Action::Block),
            Suspend::Blocked => {
                let used = state.writers.iter().any(|its| its.bios > 0 || its.rest > 0);
                if !used {
                    actions.push(Action::Postsuspend);
                }
            }
            Suspend::Postsuspend => {
                let busy = state.jobs.iter().any(|job| job.stage != JobStage::Idle)
                    && !self.has(Mistake::ReloadWithoutDrain)
                    || state.flusher.stage != FlusherStage::Idle
                    || state.verify.is_looking()
                    || state.completer != Completer::Idle;
                if !busy {
                    actions.push(Action::ShutAndDrain);
                }
            }
            Suspend::Suspended => {
                if message.is_some() {
                    actions.push(Action::Message);
                }
            }
        }
    }

    pub fn message(&self, state: &mut State) {
        let half_done = std::mem::take(&mut state.control.skipping);
        if half_done != 0 {
            return state.clear(half_done, Word::D);
        }
        let message = self.scenario.messages[usize::from(state.control.at)];
        state.control.at += 1;
        match message {
            Message::Start => self.start(state),
            Message::Pause => state.control.paused = true,
            Message::Track => state.mirror = false,
            Message::Mirror => {
                state.mirror = true;
                state.control.switching = !self.has(Mistake::SwitchKeepsComplete);
            }
            Message::Verify => self.verify(state),
            Message::Skip(range) => self.skip_message(state, range),
            Message::Suspend => self.presuspend(state),
            Message::Resume => self.resume(state),
            Message::Reload => {
                self.adopt(state);
                self.resume(state);
            }
        }
    }

    /// The rest of `Mapping::set_mode`: writes of track may be in flight, so that it is not
    /// complete before they have ended.
    pub fn set_mode(&self, state: &mut State) {
        self.step_back(state);
        state.control.switching = false;
    }

    pub fn start(&self, state: &mut State) {
        state.control.paused = false;
        state.control.stopped = false;
        state.detached = false;
        state.flusher.broken = false;
    }

    /// Not where anything is in flight or waits.
    fn skip_message(&self, state: &mut State, range: Blocks) {
        let used = state
            .bios
            .iter()
            .filter(|bio| bio.is_write() && (bio.is_entered() || bio.is_waiting()))
            .fold(0, |all, bio| all | bio.range);
        let range = if self.has(Mistake::SkipOutsideTable) {
            range
        } else {
            range & !blocks_of(touched(used))
        };
        let dirty = state.with(self.covered(range), Word::D);
        self.skip(state, range);
        if self.has(Mistake::SkipInTwoSteps) {
            state.set(dirty, Word::D);
            state.control.skipping = dirty;
        }
    }

    /// Nothing is held from here on, and no job begins.
    fn presuspend(&self, state: &mut State) {
        state.control.suspend = Suspend::Presuspend;
        state.holding = false;
        self.drop_holds(state);
    }

    fn resume(&self, state: &mut State) {
        state.control.suspend = Suspend::Running;
        state.holding = true;
    }

    /// A new target takes the words over. It has no jobs of its own; where one of the old one's is
    /// still in flight, its write comes when it likes.
    fn adopt(&self, state: &mut State) {
        for number in 0..state.jobs.len() {
            let job = std::mem::take(&mut state.jobs[number]);
            if job.stage == JobStage::Writing {
                state.stray = bits(job.todo)
                    .next()
                    .map(|block| (block, job.buffer[usize::from(block)]));
            }
            state.clear(job.run, Word::C | Word::H);
        }
    }

    /// `complete::failed`: copying stops, or the clone is detached.
    pub fn failed(&self, state: &mut State, clone: bool) {
        state.control.paused = true;
        state.control.stopped = true;
        if clone && self.scenario.detach && !state.detached {
            state.detached = true;
            self.lose_cache(state);
            state.lose();
            self.suspect_unflushed(state);
        }
    }

    /// `Mapping::leg_failed`, before the user's bio ends.
    pub fn leg_failed(&self, state: &mut State) {
        state.control.failed = false;
        self.failed(state, true);
    }
}
