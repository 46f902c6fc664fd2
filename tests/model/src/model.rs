// SPDX-License-Identifier: GPL-2.0

//! The steps that can be taken, and who takes them; what a step does is told in the files of the
//! functions that it is named for.

use crate::mistakes::Mistake;
use crate::scenario::{Op, Scenario};
use crate::state::*;
use stateright::{Model, Property};

/// The device that a bio goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Backing,
    Clone,
}

/// A step. Those headed LOCK in the protocol are one critical section; see [`Action::locks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    // A user's bio, by writer and then by its place in the list of bios.
    Map(u8),
    Admit(u8),
    AdmitRest(u8),
    Enter(usize),
    Fetch(usize),
    Apply(usize, Side, u8),
    Fault(usize, Side),
    EntryEnded(usize),
    EntryEndedStep(usize),
    End(usize),
    EndStep(usize),
    Reroute(usize),
    EnterFlush(usize),
    FlushEnded(usize),
    ReadEnded(usize),
    ReadFault(usize),
    FailOverLook(usize),
    FailOverRead(usize),
    // A job.
    Look(u8, Regions),
    Claim(u8, Regions),
    ClaimRefused(u8, Regions),
    HoldClaim(u8, Regions),
    IsDrained(u8),
    Read(u8),
    Write(u8),
    JobFault(u8),
    Failed(u8),
    PutBack(u8),
    Wrote(u8),
    LossesLook(u8),
    Dirty(u8),
    GiveBack(u8),
    StrayWrite,
    EndLateHold,
    // A verify.
    AllEnter,
    Watch,
    LookAtBacking,
    LookAtClone,
    Judge,
    // The way to complete.
    CountsLook,
    BeginCompleting,
    IsClean,
    StepBack,
    Complete,
    // Flushes of the clone, and what is lost with it.
    SendFlush,
    TurnAway,
    FlushDone,
    FlushFault,
    FlushLost,
    FlushGivenUp,
    FlushStepBack,
    SuspectNext,
    Suspect,
    SuspectStepBack,
    DupFailed,
    // The user's messages, and a suspend.
    Message,
    Start,
    Block,
    Postsuspend,
    Suspended,
}

/// A scenario, with one mistake planted or none.
pub struct Mirror {
    pub scenario: &'static Scenario,
    pub mistake: Option<Mistake>,
}

/// Who a step belongs to, for fairness: see `liveness`. `None`: nobody has to take it ever.
pub type Process = Option<u8>;

pub const PROCESSES: u8 = 11;
const WORKER: u8 = 3;
const JOBS: u8 = 4;
const FLUSHER: u8 = 6;
const COMPLETER: u8 = 7;
const LOSS: u8 = 8;
const CONTROL: u8 = 9;
const VERIFIER: u8 = 10;

impl Mirror {
    pub fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    pub fn process(&self, state: &State, action: Action) -> Process {
        use Action::*;
        match action {
            Map(_) | Admit(_) => None,
            FlushFault if state.flusher.doomed => Some(FLUSHER),
            Fault(..) | ReadFault(_) | JobFault(_) | FlushFault | EndLateHold => None,
            AdmitRest(writer) => Some(writer),
            Enter(bio)
            | Fetch(bio)
            | Apply(bio, ..)
            | EntryEnded(bio)
            | EntryEndedStep(bio)
            | End(bio)
            | EndStep(bio)
            | EnterFlush(bio)
            | FlushEnded(bio)
            | ReadEnded(bio)
            | FailOverLook(bio)
            | FailOverRead(bio) => Some(state.bios[bio].writer),
            Reroute(_) => Some(WORKER),
            Look(job, _)
            | Claim(job, _)
            | ClaimRefused(job, _)
            | HoldClaim(job, _)
            | IsDrained(job)
            | Read(job)
            | Write(job)
            | Failed(job)
            | PutBack(job)
            | Wrote(job)
            | LossesLook(job)
            | Dirty(job)
            | GiveBack(job) => Some(JOBS + job),
            StrayWrite => Some(JOBS),
            CountsLook | BeginCompleting | IsClean | StepBack | Complete => Some(COMPLETER),
            SendFlush | TurnAway | FlushDone | FlushLost | FlushGivenUp | FlushStepBack => {
                Some(FLUSHER)
            }
            SuspectNext | Suspect | SuspectStepBack => Some(LOSS),
            AllEnter | Watch | LookAtBacking | LookAtClone | Judge => Some(VERIFIER),
            DupFailed | Message | Start | Block | Postsuspend | Suspended => Some(CONTROL),
        }
    }

    /// The phase goes back, as something is dirty.
    pub fn step_back(&self, state: &mut State) {
        if state.phase == Phase::Complete && self.scenario.stays {
            state.wrong = Some(Wrong::SteppedBack);
        }
        state.phase = Phase::Copying;
    }

    /// A write, by whomever, has reached a block of the clone.
    pub fn write_clone(&self, state: &mut State, block: u8, version: Version, fua: bool) {
        if !self.scenario.data() {
            return;
        }
        let bit = 1 << block;
        state.devices.clone[usize::from(block)] = version;
        if fua {
            state.devices.volatile &= !bit;
        } else {
            state.devices.volatile |= bit;
            state.flusher.secures &= !bit;
        }
    }

    fn fault_left(&self, state: &State) -> bool {
        state.control.faults > 0
    }

    /// Whether such a fault may come.
    pub fn may_fail(&self, state: &State, fault: crate::scenario::Fault) -> bool {
        self.fault_left(state) && self.scenario.faults.contains(&fault)
    }

    pub fn operation(&self, writer: u8, at: u8) -> Option<Op> {
        self.scenario
            .writers
            .get(usize::from(writer))?
            .get(usize::from(at))
            .copied()
    }
}

impl Action {
    /// Whether it takes the lock of the table.
    fn locks(self) -> bool {
        use Action::*;
        match self {
            Admit(_) | AdmitRest(_) | Enter(_) | EntryEnded(_) | Reroute(_) | EnterFlush(_)
            | Look(..) | Claim(..) | ClaimRefused(..) | HoldClaim(..) | IsDrained(_)
            | Failed(_) | Wrote(_) | LossesLook(_) | GiveBack(_) | EndLateHold | SendFlush
            | TurnAway | FlushDone | FlushLost | FlushGivenUp | SuspectNext | DupFailed
            | Message | Start | Watch | Judge => true,
            Map(_) | Fetch(_) | Apply(..) | Fault(..) | EntryEndedStep(_) | End(_) | EndStep(_)
            | FlushEnded(_) | ReadEnded(_) | ReadFault(_) | FailOverLook(_) | FailOverRead(_)
            | Read(_) | Write(_) | JobFault(_) | PutBack(_) | Dirty(_) | StrayWrite
            | CountsLook | BeginCompleting | IsClean | StepBack | Complete | FlushFault
            | FlushStepBack | Suspect | SuspectStepBack | Block | Postsuspend | Suspended
            | AllEnter | LookAtBacking | LookAtClone => false,
        }
    }
}

impl Model for Mirror {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.scenario.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.user_actions(state, actions);
        self.job_actions(state, actions);
        self.flush_actions(state, actions);
        self.completer_actions(state, actions);
        self.control_actions(state, actions);
        self.verify_actions(state, actions);
        if state.locked {
            actions.retain(|action| !action.locks());
        }
    }

    /// Steps that change nothing are none.
    fn next_state(&self, old: &State, action: Action) -> Option<State> {
        use Action::*;
        let mut new = old.clone();
        let state = &mut new;
        match action {
            Map(writer) => self.map(state, writer),
            Admit(writer) => self.admit(state, writer),
            AdmitRest(writer) => self.admit_rest(state, writer),
            Enter(bio) => self.enter(state, bio),
            Fetch(bio) => self.fetch(state, bio),
            Apply(bio, side, block) => self.apply(state, bio, side, block),
            Fault(bio, side) => self.fault(state, bio, side),
            EntryEnded(bio) | End(bio) => self.begin_end(state, bio),
            EntryEndedStep(bio) | EndStep(bio) => self.end_step(state, bio),
            Reroute(bio) => self.reroute(state, bio),
            EnterFlush(bio) => state.bios[bio].stage = Stage::FlushWaiting,
            FlushEnded(bio) => self.flush_ended(state, bio),
            ReadEnded(bio) => self.acknowledge(state, bio),
            ReadFault(bio) => self.read_fault(state, bio),
            FailOverLook(bio) => self.fail_over_look(state, bio),
            FailOverRead(bio) => self.fail_over_read(state, bio),
            Look(job, run) => self.look(state, job, run),
            Claim(job, run) => self.claim(state, job, run),
            ClaimRefused(_, run) => self.refuse(state, run),
            HoldClaim(job, run) => self.hold_claim(state, job, run),
            IsDrained(job) => self.is_drained(state, job),
            Read(job) => self.read(state, job),
            Write(job) => self.write(state, job),
            JobFault(job) => self.job_fault(state, job),
            Failed(job) => self.job_failed(state, job),
            PutBack(job) => self.put_back(state, job),
            Wrote(job) => self.wrote(state, job),
            LossesLook(job) => self.losses_look(state, job),
            Dirty(job) => self.dirty(state, job),
            GiveBack(job) => self.give_back(state, job),
            StrayWrite => self.stray_write(state),
            EndLateHold => self.end_late_hold(state),
            CountsLook => state.completer = Completer::Begin,
            BeginCompleting => self.begin_completing(state),
            IsClean => self.is_clean(state),
            StepBack => self.give_up_completing(state),
            Complete => self.complete(state),
            SendFlush => self.send_flush(state),
            TurnAway => self.turn_away(state),
            FlushDone => self.flush_done(state),
            FlushFault => self.flush_fault(state),
            FlushLost => self.flush_lost(state),
            FlushGivenUp => self.flush_given_up(state),
            FlushStepBack => self.flush_step_back(state),
            SuspectNext => self.suspect_next(state),
            Suspect => self.suspect(state),
            SuspectStepBack => self.suspect_step_back(state),
            AllEnter => self.all_enter(state),
            Watch => self.watch(state),
            LookAtBacking => self.look_at_backing(state),
            LookAtClone => self.look_at_clone(state),
            Judge => self.judge(state),
            DupFailed => self.duplicate_failed(state),
            Message => self.message(state),
            Start => self.start(state),
            Block => state.control.suspend = Suspend::Blocked,
            Postsuspend => state.control.suspend = Suspend::Postsuspend,
            Suspended => state.control.suspend = Suspend::Suspended,
        }
        let new = new.in_order();
        (new != *old).then_some(new)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        self.safety()
    }
}
