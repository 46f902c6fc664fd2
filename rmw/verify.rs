// SPDX-License-Identifier: GPL-2.0

//! Verify: both devices are read where they are in sync, and compared.
//!
//! ```text
//! begin -> read the backing device -> read the clone -> compare -> the next piece, or the end
//! ```
//!
//! Users' I/O goes on. Each piece is [watched](crate::mapping::Mapping::watch) from before it is
//! read; where it differs, and something was sent there meanwhile, it is looked at again. What is
//! written all the time is at last looked at while writes to it wait, as for a copy of it.

use super::{
    complete,
    engine::{Engine, Gate, Shared},
    errors::Side,
    job::{self, Task},
    narrow::Narrow,
    pace::Pace,
    scheduler::{self, NoJob},
    slot::Slot,
};
use crate::{
    abstractions::{
        bio::{Priority, Status},
        sync::srcu::GracePeriod,
    },
    mapping::{
        geometry::{Geometry, Range},
        Difference,
    },
};
use kernel::{error::Error, prelude::*, sync::Arc, time::Delta};

/// What stands for a difference among the errors.
const DIFFERS: c_int = -(kernel::bindings::EILSEQ as c_int);

/// How often to look whether the writes have ended that went past the table.
const POLL: Delta = Delta::from_millis(20);

/// So often a place is looked at in vain before writes to it wait.
const IN_VAIN: u32 = 3;

/// How far a verify is. Locking: its owner's.
#[derive(Clone, Copy)]
pub(super) struct Verify {
    wanted: bool,
    /// Which one it is: what a look of an earlier one leaves is nothing to this one.
    round: u64,
    /// For it all writes enter the table: they do when this is over.
    period: Option<GracePeriod>,
    /// The next region.
    next: u64,
    /// How many looks are out.
    looks: u32,
    /// Those that are out have to end before others begin: these may come to the same regions, and
    /// a region can be watched for one look only.
    drains: bool,
    /// Whether its end is still to be told.
    tells: bool,
}

impl Verify {
    /// None goes on.
    pub(super) const fn none() -> Self {
        Self {
            wanted: false,
            round: 0,
            period: None,
            next: 0,
            looks: 0,
            drains: false,
            tells: false,
        }
    }

    /// Begins one, unless that was done already.
    pub(super) fn start(&mut self) {
        if !self.wanted {
            self.wanted = true;
            self.round += 1;
            self.next = 0;
            self.drains = self.looks > 0;
            self.tells = true;
        }
    }

    /// Ends it.
    pub(super) fn stop(&mut self) {
        self.wanted = false;
    }

    /// Whether one goes on, or is about to end.
    pub(super) fn goes_on(&self) -> bool {
        self.wanted || self.tells
    }

    /// How many jobs are out that look.
    pub(super) fn looks(&self) -> u32 {
        self.looks
    }

    /// How far it is, in sectors of the target.
    pub(super) fn sectors(&self, geometry: &Geometry) -> u64 {
        geometry.first_sector(self.next).min(geometry.len())
    }

    /// Takes the verify out of an engine that has no look out any more.
    pub(super) fn take(&mut self) -> Self {
        let taken = Self {
            period: None,
            looks: 0,
            drains: false,
            ..*self
        };
        self.stop();
        self.tells = false;
        taken
    }
}

/// What a job looks at; it travels with the slot.
#[derive(Clone, Copy)]
pub(super) struct Look {
    round: u64,
    /// The sectors that are being looked at, and those that come after them.
    piece: Range,
    rest: Option<Range>,
    narrow: Narrow,
    /// How often the piece was looked at in vain.
    in_vain: u32,
    /// The region that the last difference was in. It becomes dirty when all of it was looked at:
    /// else what comes after that would not be found.
    differs: Option<u64>,
    /// The number of its hold, where writes wait.
    hold: Option<u64>,
    priority: Priority,
}

/// A look under way.
struct Job {
    slot: Pin<KBox<Slot>>,
    engine: Arc<Engine>,
    look: Look,
}

/// Begins all looks that may begin, and ends the verify when it is done. Returns how long to wait
/// where that is not for an event. Context: the engine's worker.
pub(super) fn begin(engine: &Arc<Engine>, most: u32) -> Option<Delta> {
    loop {
        match next(engine, most) {
            Ok(job) => job.read(),
            Err(NoJob::Wait(delay)) => return Some(delay),
            Err(NoJob::Nothing) => return None,
        }
    }
}

fn next(engine: &Arc<Engine>, most: u32) -> Result<Job, NoJob> {
    let mapping = &engine.mapping;
    let geometry = &mapping.geometry;
    let mut shared = engine.shared.lock();
    let verify = &mut shared.verify;
    let done = verify.next >= geometry.regions() && verify.looks == 0;
    if done || !mapping.is_attached() {
        verify.stop();
    }
    if !verify.wanted {
        if verify.looks == 0 && core::mem::take(&mut verify.tells) {
            let entered = verify.period.take().is_some();
            drop(shared);
            if entered {
                mapping.let_writes_pass();
            }
            engine.mapped_device.raise_event();
        }
        return Err(NoJob::Nothing);
    }
    if shared.gate != Gate::Open || shared.verify.drains || shared.pool.out() >= most {
        return Err(NoJob::Nothing);
    }
    let period = shared.verify.period;
    let period = *shared
        .verify
        .period
        .insert(period.unwrap_or_else(|| mapping.have_writes_enter()));
    if !mapping.all_enter(period) {
        return Err(NoJob::Wait(POLL));
    }
    let now = shared.pace.now();
    if let Some(delay) = shared.pace.job_in(now) {
        return Err(NoJob::Wait(delay));
    }
    let Verify { round, next, .. } = shared.verify;
    let sectors = shared.pace.most(shared.pool.pipeline().batch);
    drop(shared);

    // Without the lock: the map may be large.
    let regions = (sectors / geometry.region_size()).max(1);
    let found = mapping
        .regions
        .first_in_sync(next, geometry.regions(), regions);

    let mut shared = engine.shared.lock();
    let verify = &shared.verify;
    let same = verify.wanted && !verify.drains && (verify.round, verify.next) == (round, next);
    if !same || shared.gate != Gate::Open {
        return Err(NoJob::Wait(Pace::SOON));
    }
    let Some(span) = found else {
        shared.verify.next = geometry.regions();
        // Where no look is out, nobody else sees that this was the end.
        return Err(NoJob::Wait(Pace::SOON));
    };
    let slot = shared.pool.take().ok_or(NoJob::Nothing)?;
    let range = geometry.sectors(span);
    shared.verify.next = span.end();
    shared.verify.looks += 1;
    shared.pace.job(now, range.len());
    let priority = scheduler::priority(&mut shared);
    drop(shared);
    let narrow = Narrow::new(slot.batch().min(slot.half()));
    let (piece, rest) = range.split(narrow.step());
    Ok(Job {
        slot,
        engine: engine.clone(),
        look: Look {
            round,
            piece,
            rest,
            narrow,
            in_vain: 0,
            differs: None,
            hold: None,
            priority,
        },
    })
}

/// A slot came back that was to read a device. Context: the engine's worker.
pub(super) fn go_on(
    slot: Pin<KBox<Slot>>,
    engine: Arc<Engine>,
    look: Look,
    side: Side,
    status: Status,
) {
    let job = Job { slot, engine, look };
    match side {
        _ if !status.is_ok() => job.failed(side, status),
        Side::Backing if job.is_over() => job.give_up(),
        Side::Backing => job.read_device(Side::Clone),
        Side::Clone => job.compare(),
    }
}

impl Job {
    /// Begins to look at the piece. Context: process, may wait for a request.
    fn read(mut self) {
        if self.is_over() {
            return self.give_up();
        }
        let region = self.region();
        if self.look.differs.is_some_and(|differs| differs != region) {
            self.settle();
        }
        self.engine.mapping.watch(self.look.piece);
        self.read_device(Side::Backing);
    }

    /// The backing device's sectors go to the first half of the memory, the clone's to the other.
    fn read_device(mut self, side: Side) {
        let Self { slot, engine, look } = &mut self;
        let mapping = &engine.mapping;
        let (device, sector, place) = match side {
            Side::Backing => {
                let sector = mapping.geometry.backing_sector(look.piece);
                (&mapping.legs.backing, sector, 0)
            }
            Side::Clone => {
                let sector = mapping.geometry.clone_sector(look.piece);
                (&mapping.legs.clone, sector, slot.half())
            }
        };
        let bio = slot.as_mut().bio_mut();
        match bio.prepare_read(device, sector, (place, look.piece.len())) {
            Ok(()) => {
                // Users wait for it.
                bio.set_priority(match look.hold {
                    Some(_) => Priority::BestEffort,
                    None => look.priority,
                });
                job::submit(self.slot, self.engine, Task::Look(self.look, side));
            }
            Err(error) => {
                self.note(side, self.look.piece, Error::to_errno(error));
                self.engine.shared.lock().verify.stop();
                self.give_up();
            }
        }
    }

    /// Both halves of the memory hold what the devices have.
    fn compare(mut self) {
        let piece = self.look.piece;
        let mut left = (!self.is_same(piece)).then_some(piece);
        while let Some(range) = left {
            let geometry = &self.engine.mapping.geometry;
            let region = geometry.region_of(range.start());
            let (part, rest) = range.split(geometry.first_sector(region + 1) - range.start());
            if !self.is_same(part) {
                match self.engine.mapping.judge(region) {
                    Difference::Again => return self.look_again(part, rest),
                    Difference::Known => {}
                    Difference::Found => self.found(region, part),
                }
            }
            left = rest;
        }
        self.look.narrow.passed(piece.end());
        self.pass();
    }

    /// Whether both devices have the same in a part of the piece.
    fn is_same(&self, part: Range) -> bool {
        let at = part.start() - self.look.piece.start();
        let half = self.slot.half();
        (self.slot.memory()).is_same(at, half + at, part.len())
    }

    /// A part of the piece differs, and shall not. Each sector that does is told.
    fn found(&mut self, region: u64, part: Range) {
        self.differs_in(region);
        let mut run: Option<Range> = None;
        let mut left = Some(part);
        while let Some(range) = left {
            let (sector, rest) = range.split(1);
            if !self.is_same(sector) {
                run = Some(run.map_or(sector, |run| run.joined(Some(sector))));
            } else if let Some(run) = run.take() {
                self.note(Side::Clone, run, DIFFERS);
            }
            left = rest;
        }
        if let Some(run) = run {
            self.note(Side::Clone, run, DIFFERS);
        }
    }

    /// A region of the piece is not the same on both devices.
    fn differs_in(&mut self, region: u64) {
        if self.look.differs.is_some_and(|differs| differs != region) {
            self.settle();
        }
        self.look.differs = Some(region);
    }

    /// The region that differs is dirty from here on.
    fn settle(&mut self) {
        let mapping = &self.engine.mapping;
        let region = self.look.differs.take();
        let span = region.and_then(|region| mapping.geometry.span(region, region + 1));
        if let Some(span) = span {
            self.engine.wake_if(mapping.dirty(span));
        }
    }

    /// Something was sent to a part of the piece while it was read: it is looked at again, and then
    /// what comes after it.
    fn look_again(mut self, part: Range, rest: Option<Range>) {
        if part.start() == self.look.piece.start() {
            self.look.in_vain += 1;
        } else {
            self.end_hold();
            self.look.in_vain = 1;
        }
        self.look.rest = rest.map_or(self.look.rest, |rest| Some(rest.joined(self.look.rest)));
        self.look.piece = part;
        {
            let mut shared = self.engine.shared.lock();
            let now = shared.pace.now();
            shared.pace.job(now, part.len());
        }
        if self.look.in_vain >= IN_VAIN {
            self.hold();
        }
        self.read();
    }

    /// Has writes to the piece's region wait, if that may be now and is not so already.
    fn hold(&mut self) {
        let mapping = &self.engine.mapping;
        if self.look.hold.is_some_and(|hold| mapping.is_held(hold)) {
            return;
        }
        let region = self.region();
        let mut shared = self.engine.shared.lock();
        let now = shared.pace.now();
        let span = (mapping.geometry.span(region, region + 1)).filter(|_| now >= shared.hold_from);
        self.look.hold = span.and_then(|span| mapping.hold(mapping.geometry.sectors(span)));
        if self.look.hold.is_some() {
            shared.hold_ends = Some(now + Pace::HOLD.as_nanos());
            drop(shared);
            // For the time when that is over.
            self.engine.wake();
        }
    }

    fn end_hold(&mut self) {
        if let Some(number) = self.look.hold.take() {
            let mapping = &self.engine.mapping;
            self.engine.shared.lock().end_hold(mapping, number);
        }
    }

    /// The piece could not be read. That is narrowed down to a logical block; on the clone its
    /// region becomes dirty, as a disk may repair what is written. The end of a device ends the
    /// verify.
    fn failed(mut self, side: Side, status: Status) {
        if self.is_over() {
            return self.give_up();
        }
        let piece = self.look.piece;
        if [Status::OFFLINE, Status::TRANSPORT].contains(&status) {
            self.note(side, piece, status.to_errno());
            self.engine.shared.lock().verify.stop();
            return self.give_up();
        }
        let block = self.engine.mapping.legs.block.into();
        if !self.look.narrow.failed(piece.len(), piece.end(), block) {
            let (piece, left) = piece.split(self.look.narrow.step());
            self.look.rest = left.map_or(self.look.rest, |left| Some(left.joined(self.look.rest)));
            self.look.piece = piece;
            return self.read();
        }
        if side == Side::Clone {
            self.differs_in(self.region());
        }
        self.note(side, piece, status.to_errno());
        self.pass();
    }

    /// Something can't be read, or differs.
    fn note(&self, side: Side, range: Range, errno: c_int) {
        let engine = &self.engine;
        let mapping = &engine.mapping;
        let (device, sector) = match side {
            Side::Backing => (
                &mapping.legs.backing,
                mapping.geometry.backing_sector(range),
            ),
            Side::Clone => (&mapping.legs.clone, mapping.geometry.clone_sector(range)),
        };
        let differs = errno == DIFFERS;
        if engine.may_log() {
            pr_err!(
                "{}: verify: {} sectors at sector {} of {} {}: {}\n",
                engine.name,
                range.len(),
                sector,
                **device,
                if differs { "differ" } else { "can't be read" },
                errno
            );
        }
        complete::noted(engine, |shared: &mut Shared| {
            shared.errors.add(side, errno, range.start(), range.len());
            let counters = &mut shared.counters;
            match side {
                _ if differs => counters.mismatched += range.len(),
                Side::Backing => counters.read_errors += range.len(),
                Side::Clone => counters.clone_errors += range.len(),
            }
        });
    }

    /// Goes on after the piece.
    fn pass(mut self) {
        self.end_hold();
        self.look.in_vain = 0;
        match self.look.rest {
            Some(rest) => {
                (self.look.piece, self.look.rest) = rest.split(self.look.narrow.step());
                self.read();
            }
            None => self.end(),
        }
    }

    /// The region that the piece begins in.
    fn region(&self) -> u64 {
        (self.engine.mapping.geometry).region_of(self.look.piece.start())
    }

    /// Whether nothing more is to be looked at, for now or for good. A suspend waits for the rest of
    /// a region that differs: as it becomes dirty, nobody would come back to it.
    fn is_over(&self) -> bool {
        let shared = self.engine.shared.lock();
        let verify = &shared.verify;
        let may = shared.gate == Gate::Open || self.look.differs == Some(self.region());
        let goes_on = may && verify.wanted && verify.round == self.look.round;
        !goes_on || !self.engine.mapping.is_attached()
    }

    /// The verify goes on from here another time, if it does.
    fn give_up(self) {
        let region = self.region();
        let mut shared = self.engine.shared.lock();
        if shared.verify.round == self.look.round {
            shared.verify.next = shared.verify.next.min(region);
            shared.verify.drains = true;
        }
        drop(shared);
        self.end();
    }

    fn end(mut self) {
        self.settle();
        self.end_hold();
        let mut shared = self.engine.shared.lock();
        shared.verify.looks -= 1;
        shared.verify.drains &= shared.verify.looks > 0;
        if self.look.priority == Priority::BestEffort {
            shared.urgent_job = false;
        }
        drop(shared);
        self.engine.put_home(self.slot);
    }
}
