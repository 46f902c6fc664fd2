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
    Fill(usize),
    Apply(usize, Side, u8),
    Fault(usize, Side),
    EntryEnded(usize),
    EntryEndedStep(usize),
    End(usize),
    EndStep(usize),
    Reroute(usize),
    MapFlush(usize),
    FlushEnded(usize),
    ReadEnded(usize),
    ReadFault(usize),
    ReadFailed(usize),
    Fallback(usize),
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
    Account(u8),
    GiveBack(u8),
    Copied(u8),
    GiveUp(u8),
    EndHold(u8),
    StrayWrite,
    EndLateHold,
    // A verify.
    AllEnter,
    Watch,
    LookAtBacking,
    LookAtClone,
    Judge,
    // The way to complete.
    AtRest,
    BeginCompleting,
    IsClean,
    StepBack,
    Complete,
    // Flushes of the clone, and what is lost with it.
    BeginFlush,
    EndWaiting,
    FlushSecured,
    FlushFault,
    Lose,
    EndRiding,
    FlushStepBack,
    SuspectNext,
    Suspect,
    SuspectStepBack,
    LegFailed,
    // The user's messages, and a suspend.
    Message,
    SetMode,
    Start,
    Block,
    Postsuspend,
    ShutAndDrain,
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
            | Fill(bio)
            | Apply(bio, ..)
            | EntryEnded(bio)
            | EntryEndedStep(bio)
            | End(bio)
            | EndStep(bio)
            | MapFlush(bio)
            | FlushEnded(bio)
            | ReadEnded(bio)
            | ReadFailed(bio)
            | Fallback(bio) => Some(state.bios[bio].writer),
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
            | Account(job)
            | GiveBack(job)
            | Copied(job)
            | GiveUp(job)
            | EndHold(job) => Some(JOBS + job),
            StrayWrite => Some(JOBS),
            AtRest | BeginCompleting | IsClean | StepBack | Complete => Some(COMPLETER),
            BeginFlush | EndWaiting | FlushSecured | Lose | EndRiding | FlushStepBack => {
                Some(FLUSHER)
            }
            SuspectNext | Suspect | SuspectStepBack => Some(LOSS),
            AllEnter | Watch | LookAtBacking | LookAtClone | Judge => Some(VERIFIER),
            LegFailed | Message | SetMode | Start | Block | Postsuspend | ShutAndDrain => {
                Some(CONTROL)
            }
        }
    }

    /// The phase goes back, as something is dirty.
    pub fn step_back(&self, state: &mut State) {
        let stays = self.scenario.stays && state.mirror && !state.control.switching;
        if state.phase == Phase::Complete && stays {
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
            Admit(_) | AdmitRest(_) | Enter(_) | EntryEnded(_) | Reroute(_) | MapFlush(_)
            | Look(..) | Claim(..) | ClaimRefused(..) | HoldClaim(..) | IsDrained(_)
            | Failed(_) | Account(_) | GiveBack(_) | Copied(_) | EndHold(_) | EndLateHold
            | BeginFlush | EndWaiting | FlushSecured | Lose | EndRiding | SuspectNext
            | LegFailed | Message | Start | Watch | Judge => true,
            Map(_) | Fill(_) | Apply(..) | Fault(..) | EntryEndedStep(_) | End(_) | EndStep(_)
            | FlushEnded(_) | ReadEnded(_) | ReadFault(_) | ReadFailed(_) | Fallback(_)
            | Read(_) | Write(_) | JobFault(_) | PutBack(_) | GiveUp(_) | StrayWrite | SetMode
            | AtRest | BeginCompleting | IsClean | StepBack | Complete | FlushFault
            | FlushStepBack | Suspect | SuspectStepBack | Block | Postsuspend | ShutAndDrain
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
            Fill(bio) => self.fill(state, bio),
            Apply(bio, side, block) => self.apply(state, bio, side, block),
            Fault(bio, side) => self.fault(state, bio, side),
            EntryEnded(bio) | End(bio) => self.begin_end(state, bio),
            EntryEndedStep(bio) | EndStep(bio) => self.end_step(state, bio),
            Reroute(bio) => self.reroute(state, bio),
            MapFlush(bio) => state.bios[bio].stage = Stage::FlushWaiting,
            FlushEnded(bio) => self.flush_ended(state, bio),
            ReadEnded(bio) => self.acknowledge(state, bio),
            ReadFault(bio) => self.read_fault(state, bio),
            ReadFailed(bio) => self.read_failed(state, bio),
            Fallback(bio) => self.fallback(state, bio),
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
            Account(job) => self.account(state, job),
            GiveBack(job) => self.give_back(state, job),
            Copied(job) => self.copied(state, job),
            GiveUp(job) => self.give_up(state, job),
            EndHold(job) => self.end_hold(state, job),
            StrayWrite => self.stray_write(state),
            EndLateHold => self.end_late_hold(state),
            AtRest => state.completer = Completer::Begin,
            BeginCompleting => self.begin_completing(state),
            IsClean => self.is_clean(state),
            StepBack => self.give_up_completing(state),
            Complete => self.complete(state),
            BeginFlush => self.begin_flush(state),
            EndWaiting => self.end_waiting(state),
            FlushSecured => self.flush_secured(state),
            FlushFault => self.flush_fault(state),
            Lose => self.flush_lose(state),
            EndRiding => self.end_riding(state),
            FlushStepBack => self.flush_step_back(state),
            SuspectNext => self.suspect_next(state),
            Suspect => self.suspect(state),
            SuspectStepBack => self.suspect_step_back(state),
            AllEnter => self.all_enter(state),
            Watch => self.watch(state),
            LookAtBacking => self.look_at_backing(state),
            LookAtClone => self.look_at_clone(state),
            Judge => self.judge(state),
            LegFailed => self.leg_failed(state),
            Message => self.message(state),
            SetMode => self.set_mode(state),
            Start => self.start(state),
            Block => state.control.suspend = Suspend::Blocked,
            Postsuspend => state.control.suspend = Suspend::Postsuspend,
            ShutAndDrain => state.control.suspend = Suspend::Suspended,
        }
        let new = new.in_order();
        (new != *old).then_some(new)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        self.safety()
    }
}
