// SPDX-License-Identifier: GPL-2.0

//! A job, and its way through the stages.

use super::{
    complete,
    engine::Engine,
    errors::Side,
    flush, modify,
    narrow::Narrow,
    read,
    slot::Slot,
    verify::{self, Look},
    write,
};
use crate::{
    abstractions::{
        bio::{self, Priority, Status},
        workqueue::enqueue,
    },
    mapping::{self, geometry::Range, region::Claim},
};
use kernel::{prelude::*, sync::Arc};

/// So many sectors of what writes wait for are copied at a time at the most, so that a slow clone
/// is not taken for one that hangs ([`Pace::HOLD`](super::pace::Pace::HOLD)).
const HELD: u64 = 256;

/// The job has claimed regions; its memory holds nothing.
pub(super) struct Claimed;
/// The memory holds what the piece has on the backing device, or zeroes for it, but not yet all
/// that is wanted.
pub(super) struct Fetched;
/// The memory holds what the piece has on the backing device.
pub(super) struct Filled {
    /// What of the piece the clone does not have yet: its end.
    pub(super) left: Range,
    /// Whether the memory's other half holds what the piece has on the clone.
    pub(super) compares: bool,
}
/// It was decided what becomes of a part of the piece; the memory is as before.
pub(super) struct Ready {
    pub(super) part: Part,
    /// What comes after the part.
    left: Option<Range>,
    compares: bool,
}

/// What becomes of some sectors of the clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// They get what is in the job's memory.
    Write,
    /// They become zeroes, as they are in the memory, without being sent any.
    Zero,
    /// They have what they shall have.
    Keep,
    /// They get the zeroes of the job's memory for what can't be read.
    Fill,
}

/// A part of a piece.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) range: Range,
    pub(super) action: Action,
}

/// What a job copies.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// The regions that are left of those that it has claimed, which nobody else copies meanwhile.
    pub(super) claim: Claim,
    /// The sectors that are being copied: as many as there is memory for.
    pub(super) piece: Range,
    /// Those that are still to be copied after that.
    pub(super) rest: Option<Range>,
    /// Whether what the clone has is read, too, to be compared.
    pub(super) compares: bool,
    /// Whether the piece can't be read, and zeroes are written for it.
    pub(super) fills: bool,
    /// How much is read at a time, since something could not be.
    pub(super) narrow: Narrow,
    /// Where something could not be read.
    pub(super) bad: Option<Bad>,
    pub(super) priority: Priority,
    /// How often the clone may have lost something when the job began.
    pub(super) losses: u64,
    /// The number of its hold, where writes wait for the job.
    pub(super) hold: Option<u64>,
}

/// A region that something could not be read of; those before it are not the job's any more.
#[derive(Clone, Copy)]
pub(super) struct Bad {
    pub(super) region: u64,
    /// How often what is bad was to be tried again until then.
    pub(super) retries: u64,
}

/// A copy of one run of regions, piece by piece.
pub(super) struct Job<State> {
    pub(super) slot: Pin<KBox<Slot>>,
    pub(super) engine: Arc<Engine>,
    pub(super) run: Run,
    pub(super) state: State,
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
            doubted,
            hold,
        } = claimed;
        let compares = engine.policy.delta && !doubted;
        let bound = if hold.is_some() { HELD } else { u64::MAX };
        let narrow = Narrow::new(slot.most(compares).min(bound));
        let geometry = &engine.mapping.geometry;
        let (piece, rest) = geometry.cut(geometry.sectors(claim.span), narrow.step());
        let run = Run {
            claim,
            piece,
            rest,
            compares,
            fills: false,
            narrow,
            bad: None,
            priority,
            losses,
            hold,
        };
        Self {
            slot,
            engine,
            run,
            state: Claimed,
        }
    }

    /// The regions of a job that has writes wait may be read.
    pub(super) fn is_drained(&self) -> bool {
        self.engine.mapping.is_drained(self.run.claim)
    }

    /// Submits the slot's bio, which was prepared as a read of the piece.
    pub(super) fn submit_read(self) {
        submit(self.slot, self.engine, Task::Read(self.run));
    }

    /// Less of the piece is to be read.
    pub(super) fn with_less(mut self) -> Self {
        let geometry = &self.engine.mapping.geometry;
        let (piece, left) = geometry.cut(self.run.piece, self.run.narrow.step());
        self.run.rest = left.map_or(self.run.rest, |left| Some(left.joined(self.run.rest)));
        self.run.piece = piece;
        self
    }

    /// The piece can't be read: zeroes are written for it.
    pub(super) fn fill(mut self) {
        let end = self.place(self.run.piece) + self.run.piece.len();
        self.slot.as_mut().bio_mut().memory_mut().clear(end);
        self.run.fills = true;
        fetched(self.at(Fetched));
    }
}

impl Job<Fetched> {
    /// Submits the slot's bio, which was prepared as a read of what the clone has.
    pub(super) fn submit_read(self) {
        submit(self.slot, self.engine, Task::ReadClone(self.run));
    }

    /// The memory holds all that can be had.
    pub(super) fn filled(self, compares: bool) -> Job<Filled> {
        let left = self.run.piece;
        self.at(Filled { left, compares })
    }
}

impl Job<Filled> {
    /// This becomes of the first sectors of what is left.
    pub(super) fn ready(self, sectors: u64, action: Action) -> Job<Ready> {
        let compares = self.state.compares;
        let (range, left) = self.state.left.split(sectors);
        let part = Part { range, action };
        self.at(Ready {
            part,
            left,
            compares,
        })
    }
}

impl Job<Ready> {
    /// Submits the slot's bio, which was prepared for the part.
    pub(super) fn submit_write(self) {
        submit(self.slot, self.engine, Task::Write(self.run, self.state));
    }

    /// The same part, but with the data that is in the memory.
    pub(super) fn with_data(mut self) -> Self {
        self.state.part.action = Action::Write;
        self
    }

    /// The part is as it shall be: what comes next of the piece, of the run, or nothing.
    fn next(mut self) -> Next {
        if let Some(left) = self.state.left {
            let compares = self.state.compares;
            return Next::Part(self.at(Filled { left, compares }));
        }
        if self.state.part.action != Action::Fill {
            self.run.narrow.passed(self.run.piece.end());
        }
        self.next_piece()
    }
}

impl<State> Job<State> {
    /// Where a part of the piece is in the memory, in sectors.
    pub(super) fn place(&self, part: Range) -> u64 {
        let blocks = self.engine.mapping.geometry.backing_blocks(self.run.piece);
        blocks.lead + (part.start() - self.run.piece.start())
    }

    /// Where what the clone has there is in it, if it was read.
    pub(super) fn place_on_clone(&self, part: Range) -> u64 {
        let blocks = self.engine.mapping.geometry.clone_blocks(self.run.piece);
        self.slot.half() + blocks.lead + (part.start() - self.run.piece.start())
    }

    /// Whether the piece is a part of a logical block of the clone, to be merged into that.
    pub(super) fn merges(&self) -> bool {
        self.engine.mapping.geometry.is_part(self.run.piece)
    }

    /// The job has got on: where writes wait for it, they go on doing so.
    pub(super) fn go_on_holding(&self) {
        if let Some(number) = self.run.hold {
            let mapping = &self.engine.mapping;
            self.engine.shared.lock().go_on_holding(mapping, number);
        }
    }

    /// The same job in another state; the caller knows that it is in that.
    fn at<Other>(self, state: Other) -> Job<Other> {
        Job {
            slot: self.slot,
            engine: self.engine,
            run: self.run,
            state,
        }
    }

    /// Nothing is left to be done for the piece.
    pub(super) fn next_piece(self) -> Next {
        let Some(rest) = self.run.rest else {
            return Next::End(self.at(Claimed));
        };
        let mut job = self.at(Claimed);
        let geometry = &job.engine.mapping.geometry;
        (job.run.piece, job.run.rest) = geometry.cut(rest, job.run.narrow.step());
        job.run.fills = false;
        Next::Piece(job)
    }
}

/// What a job does next.
pub(super) enum Next {
    /// There is more in its memory.
    Part(Job<Filled>),
    /// There is more to be read.
    Piece(Job<Claimed>),
    /// That was all.
    End(Job<Claimed>),
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

/// Hands a slot over to its worker. Context: any.
pub(super) fn hand_over(mut slot: Pin<KBox<Slot>>, engine: Arc<Engine>, task: Task) {
    slot.as_mut().set_flight(Flight {
        engine,
        task,
        status: None,
    });
    enqueue(slot);
}

/// What a slot was sent out for.
pub(super) enum Task {
    /// To read a piece.
    Read(Run),
    /// To read what the clone has there.
    ReadClone(Run),
    /// To write a part of a piece.
    Write(Run, Ready),
    /// To a worker that flushes the clone.
    SendFlush,
    /// To flush the clone.
    Flush,
    /// To read a device, so that both are compared.
    Look(Look, Side),
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
    let status = status.unwrap_or(Status::IO_ERROR);
    let run = match task {
        Task::Read(run) | Task::ReadClone(run) | Task::Write(run, _) => run,
        Task::SendFlush => return flush::send(slot, engine),
        Task::Flush => return flush::ended(slot, engine, status.to_errno()),
        Task::Look(look, side) => return verify::go_on(slot, engine, look, side, status),
    };
    let job = Job {
        slot,
        engine,
        run,
        state: (),
    };
    if status.is_ok() {
        job.go_on_holding();
    }
    match task {
        Task::Read(_) if status.is_ok() => fetched(job.at(Fetched)),
        Task::Read(_) => read::failed(job.at(Claimed), status),
        Task::ReadClone(_) if status.is_ok() => {
            let compares = run.compares && !run.fills;
            filled(job.at(Fetched).filled(compares));
        }
        Task::ReadClone(_) => read::clone_failed(job.at(Fetched), status),
        Task::Write(_, state) if status.is_ok() => done(job.at(state)),
        Task::Write(_, state) => write::failed(job.at(state), status),
        Task::SendFlush | Task::Flush | Task::Look(..) => {}
    }
}

/// The piece was read, or cleared.
fn fetched(job: Job<Fetched>) {
    let compares = job.run.compares && !job.run.fills;
    if !compares && !job.merges() {
        filled(job.filled(false));
    } else if job.engine.is_barred() {
        complete::put_back(job);
    } else {
        read::submit_clone(job);
    }
}

/// All is there that can be had, and part of it may be done.
pub(super) fn filled(job: Job<Filled>) {
    // A suspend waits, or the clone is gone: what was read is read again later.
    if job.engine.is_barred() {
        return complete::put_back(job);
    }
    let job = modify::modify(job);
    match job.state.part.action {
        // What comes next differs from this, so that this goes no deeper.
        Action::Keep => done(job),
        _ => write::submit(job),
    }
}

/// The part is as it shall be.
fn done(job: Job<Ready>) {
    complete::account(&job);
    go_on_with(job.next());
}

/// Goes on with the piece, the run, or not at all.
pub(super) fn go_on_with(next: Next) {
    match next {
        Next::Part(job) => filled(job),
        Next::Piece(job) if job.engine.is_barred() => complete::put_back(job),
        Next::Piece(job) => read::submit(job),
        Next::End(job) => complete::copied(job),
    }
}
