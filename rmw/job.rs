// SPDX-License-Identifier: GPL-2.0

//! A job, and its way through the stages.

use super::{complete, engine::Engine, scheduler, slot::Slot, write};
use crate::{
    abstractions::bio::{self, Status},
    mapping::geometry::Range,
};
use core::marker::PhantomData;
use kernel::{prelude::*, sync::Arc};

/// The job has a run; its memory holds nothing.
pub(super) struct Claimed;
/// The memory holds what the run has on the backing device.
pub(super) struct Filled;

/// A copy of one run of sectors.
pub(super) struct Job<State> {
    pub(super) slot: Pin<KBox<Slot>>,
    pub(super) engine: Arc<Engine>,
    pub(super) run: Range,
    _state: PhantomData<State>,
}

impl Job<Claimed> {
    /// Submits the slot's bio, which was prepared as a read of the run.
    pub(super) fn submit_read(self) {
        let run = self.run;
        self.submit(Leg::Read(run));
    }
}

impl Job<Filled> {
    /// Submits the slot's bio, which was prepared as a write of the run.
    pub(super) fn submit_write(self) {
        let run = self.run;
        self.submit(Leg::Write(run));
    }
}

impl<State> Job<State> {
    /// A job of that slot and run; the caller knows how far it is.
    pub(super) fn new(slot: Pin<KBox<Slot>>, engine: Arc<Engine>, run: Range) -> Self {
        Self {
            slot,
            engine,
            run,
            _state: PhantomData,
        }
    }

    /// Gives the slot to the block layer, with what it takes to make a job of it again.
    fn submit(mut self, leg: Leg) {
        self.slot.as_mut().set_flight(Flight {
            engine: self.engine,
            leg,
            status: None,
        });
        bio::submit(self.slot);
    }
}

/// What a slot was sent out for.
pub(super) enum Leg {
    /// Only to get a worker that looks for work.
    Wake,
    /// To read the run.
    Read(Range),
    /// To write the run.
    Write(Range),
}

/// What a slot takes along where it goes without its job.
pub(super) struct Flight {
    pub(super) engine: Arc<Engine>,
    pub(super) leg: Leg,
    /// Set by the bio's completion.
    pub(super) status: Option<Status>,
}

/// A slot came back: its job goes on where it was. Context: the engine's worker.
pub(super) fn go_on(slot: Pin<KBox<Slot>>, flight: Flight) {
    let Flight {
        engine,
        leg,
        status,
    } = flight;
    // A bio that ended has a status; without one it counts as failed.
    let errno = status.map_or(EIO.to_errno(), Status::to_errno);
    match (leg, errno) {
        (Leg::Wake, _) => engine.put_home(slot),
        // A suspend waits: what was read is read again after it.
        (Leg::Read(run), 0) if engine.is_shut() => {
            complete::put_back(Job::<Claimed>::new(slot, engine.clone(), run))
        }
        (Leg::Read(run), 0) => write::submit(Job::<Filled>::new(slot, engine.clone(), run)),
        (Leg::Read(run), errno) => {
            complete::read_failed(Job::<Claimed>::new(slot, engine.clone(), run), errno);
        }
        (Leg::Write(run), 0) => complete::copied(Job::<Filled>::new(slot, engine.clone(), run)),
        (Leg::Write(run), errno) => {
            complete::write_failed(Job::<Filled>::new(slot, engine.clone(), run), errno);
        }
    }
    scheduler::refill(&engine);
}
