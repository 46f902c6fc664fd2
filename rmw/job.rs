// SPDX-License-Identifier: GPL-2.0

//! A job, and its way through the stages.

use super::{complete, engine::Engine, flush, modify, read, slot::Slot, write};
use crate::{
    abstractions::bio::{self, Priority, Status},
    mapping::{self, geometry::Range, region::Claim},
};
use core::marker::PhantomData;
use kernel::{prelude::*, sync::Arc};

/// The job has claimed regions; its memory holds nothing.
pub(super) struct Claimed;
/// The memory holds what the piece has on the backing device.
pub(super) struct Filled;
/// The memory holds what the piece shall have on the clone.
pub(super) struct Ready;

/// What a job copies.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// The regions, which nobody else copies meanwhile.
    pub(super) claim: Claim,
    /// The sectors that are being copied: as many as there is memory for.
    pub(super) piece: Range,
    /// Those that are still to be copied after that.
    pub(super) rest: Option<Range>,
    pub(super) priority: Priority,
    /// How often the clone may have lost something when the job began.
    pub(super) losses: u64,
    /// The number of its hold, where writes wait for the job.
    pub(super) hold: Option<u64>,
}

/// A copy of one run of regions, piece by piece.
pub(super) struct Job<State> {
    pub(super) slot: Pin<KBox<Slot>>,
    pub(super) engine: Arc<Engine>,
    pub(super) run: Run,
    _state: PhantomData<State>,
}

impl Job<Claimed> {
    /// A job for regions that were claimed.
    pub(super) fn begin(
        slot: Pin<KBox<Slot>>,
        engine: Arc<Engine>,
        claimed: mapping::Claimed,
        priority: Priority,
    ) -> Self {
        let mapping::Claimed {
            claim,
            losses,
            hold,
        } = claimed;
        let (piece, rest) = engine
            .mapping
            .geometry
            .sectors(claim.span)
            .split(slot.sectors());
        let run = Run {
            claim,
            piece,
            rest,
            priority,
            losses,
            hold,
        };
        Self::new(slot, engine, run)
    }

    /// The regions of a job that has writes wait may be read.
    pub(super) fn is_drained(&self) -> bool {
        self.engine.mapping.is_drained(self.run.claim)
    }

    /// Submits the slot's bio, which was prepared as a read of the piece.
    pub(super) fn submit_read(self) {
        let run = self.run;
        self.submit(Task::Read(run));
    }
}

impl Job<Filled> {
    /// What was read is to be written.
    pub(super) fn ready(self) -> Job<Ready> {
        Job::new(self.slot, self.engine, self.run)
    }
}

impl Job<Ready> {
    /// Submits the slot's bio, which was prepared as a write of the piece.
    pub(super) fn submit_write(self) {
        let run = self.run;
        self.submit(Task::Write(run));
    }

    /// The piece was written: goes on with the next one, if there is one.
    pub(super) fn next_piece(self) -> Result<Job<Claimed>, Self> {
        let Some(rest) = self.run.rest else {
            return Err(self);
        };
        let (piece, rest) = rest.split(self.slot.sectors());
        let run = Run {
            piece,
            rest,
            ..self.run
        };
        Ok(Job::new(self.slot, self.engine, run))
    }
}

impl<State> Job<State> {
    /// A job of that slot and run; the caller knows how far it is.
    fn new(slot: Pin<KBox<Slot>>, engine: Arc<Engine>, run: Run) -> Self {
        Self {
            slot,
            engine,
            run,
            _state: PhantomData,
        }
    }

    /// Gives the slot to the block layer, with what it takes to make a job of it again.
    fn submit(self, task: Task) {
        submit(self.slot, self.engine, task);
    }
}

/// Submits a slot's bio, which was prepared for a task. Context: process, may wait for a request.
pub(super) fn submit(mut slot: Pin<KBox<Slot>>, engine: Arc<Engine>, task: Task) {
    slot.as_mut().set_flight(Flight {
        engine,
        task,
        status: None,
    });
    bio::submit(slot);
}

/// What a slot was sent out for.
pub(super) enum Task {
    /// To read a piece.
    Read(Run),
    /// To write a piece.
    Write(Run),
    /// To flush the clone.
    Flush,
}

/// What a slot takes along where it goes without its job.
pub(super) struct Flight {
    pub(super) engine: Arc<Engine>,
    pub(super) task: Task,
    /// Set by the bio's completion.
    pub(super) status: Option<Status>,
}

/// A slot came back: its job goes on where it was. Context: the engine's worker.
pub(super) fn go_on(slot: Pin<KBox<Slot>>, flight: Flight) {
    let Flight {
        engine,
        task,
        status,
    } = flight;
    // A bio that ended has a status; without one it counts as failed.
    let errno = status.map_or(EIO.to_errno(), Status::to_errno);
    match (task, errno) {
        (Task::Read(run), 0) => filled(Job::new(slot, engine, run)),
        (Task::Read(run), errno) => {
            complete::read_failed(Job::<Claimed>::new(slot, engine, run), errno);
        }
        (Task::Write(run), 0) => written(Job::new(slot, engine, run)),
        (Task::Write(run), errno) => {
            complete::write_failed(Job::<Ready>::new(slot, engine, run), errno);
        }
        (Task::Flush, errno) => flush::ended(slot, engine, errno),
    }
}

/// The piece was read.
fn filled(job: Job<Filled>) {
    // A suspend waits, or the clone is gone: what was read is read again later.
    if job.engine.is_barred() {
        return complete::put_back(job);
    }
    write::submit(modify::modify(job));
}

/// The piece was written.
fn written(job: Job<Ready>) {
    complete::wrote(&job);
    if job.engine.is_barred() && job.run.rest.is_some() {
        return complete::put_back(job);
    }
    match job.next_piece() {
        Ok(job) => read::submit(job),
        Err(job) => complete::copied(job),
    }
}
