// SPDX-License-Identifier: GPL-2.0

//! A look: some regions are read on both devices, a piece after the other, and compared.

use crate::{
    abstractions::bio::{Priority, Status},
    mapping::{
        geometry::{Blocks, Range},
        Difference,
    },
    rmw::{
        complete,
        engine::{Engine, Gate, Shared},
        errors::Side,
        job::{self, Task},
        narrow::Narrow,
        slot::Slot,
    },
};
use kernel::{error::Error, prelude::*, sync::Arc};

/// What stands for a difference among the errors.
const DIFFERS: c_int = -(kernel::bindings::EILSEQ as c_int);

/// So often a place is looked at in vain before writes to it wait.
const IN_VAIN: u32 = 3;

/// What a job looks at; it travels with the slot.
#[derive(Clone, Copy)]
pub(in crate::rmw) struct Look {
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
pub(super) struct Job {
    slot: Pin<KBox<Slot>>,
    engine: Arc<Engine>,
    look: Look,
}

/// A slot came back that was to read a device. Context: the engine's worker.
pub(in crate::rmw) fn go_on(
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
    /// A look at a range in which both devices are in sync.
    pub(super) fn begin(
        slot: Pin<KBox<Slot>>,
        engine: Arc<Engine>,
        range: Range,
        round: u64,
        priority: Priority,
    ) -> Self {
        let narrow = Narrow::new(slot.most(true));
        let (piece, rest) = engine.mapping.geometry.cut(range, narrow.step());
        let look = Look {
            round,
            piece,
            rest,
            narrow,
            in_vain: 0,
            differs: None,
            hold: None,
            priority,
        };
        Self { slot, engine, look }
    }

    /// Begins to look at the piece. Context: process, may wait for a request.
    pub(super) fn read(mut self) {
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

    /// The blocks of a device that hold the piece, and where they are in the memory: those of the
    /// backing device in the first half, the clone's in the other one.
    fn blocks(&self, side: Side) -> (Blocks, u64) {
        let geometry = &self.engine.mapping.geometry;
        match side {
            Side::Backing => (geometry.backing_blocks(self.look.piece), 0),
            Side::Clone => (geometry.clone_blocks(self.look.piece), self.slot.half()),
        }
    }

    fn read_device(mut self, side: Side) {
        let (blocks, place) = self.blocks(side);
        let Self { slot, engine, look } = &mut self;
        let legs = &engine.mapping.legs;
        let device = match side {
            Side::Backing => &legs.backing,
            Side::Clone => &legs.clone,
        };
        let bio = slot.as_mut().bio_mut();
        match bio.prepare_read(device, blocks.sector, (place, blocks.sectors)) {
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
        let place = |side| {
            let (blocks, place) = self.blocks(side);
            place + blocks.lead + (part.start() - self.look.piece.start())
        };
        let (backing, clone) = (place(Side::Backing), place(Side::Clone));
        self.slot.memory().is_same(backing, clone, part.len())
    }

    /// A part of the piece differs, and shall not. Each sector that does is told.
    fn found(&mut self, region: u64, part: Range) {
        self.differs_in(region);
        for run in runs(part, |sector| self.is_same(sector)) {
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
            shared.hold_on();
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
        if !status.is_about_medium() {
            self.note(side, piece, status.to_errno());
            self.engine.shared.lock().verify.stop();
            return self.give_up();
        }
        let geometry = &self.engine.mapping.geometry;
        let block = match side {
            Side::Backing => geometry.backing_block(),
            Side::Clone => geometry.clone_block(),
        };
        let read = self.blocks(side).0.sectors;
        if !self.look.narrow.failed(read, piece.end(), block) {
            let geometry = &self.engine.mapping.geometry;
            let (piece, left) = geometry.cut(piece, self.look.narrow.step());
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
                let geometry = &self.engine.mapping.geometry;
                (self.look.piece, self.look.rest) = geometry.cut(rest, self.look.narrow.step());
                self.read();
            }
            None => self.end(),
        }
    }

    /// The region that the piece begins in.
    fn region(&self) -> u64 {
        (self.engine.mapping.geometry).region_of(self.look.piece.start())
    }

    /// Whether nothing more is to be looked at, for now or for good. A suspend waits for the rest
    /// of a region that differs: as it becomes dirty, nobody would come back to it.
    fn is_over(&self) -> bool {
        let shared = self.engine.shared.lock();
        let verify = &shared.verify;
        let finishes = self.look.differs == Some(self.region());
        let may = finishes || shared.gate == Gate::Open;
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

/// The runs of adjacent sectors of a part that are not the same.
fn runs(part: Range, is_same: impl Fn(Range) -> bool) -> impl Iterator<Item = Range> {
    let mut left = Some(part);
    core::iter::from_fn(move || {
        let mut run: Option<Range> = None;
        while let Some(range) = left {
            let (sector, rest) = range.split(1);
            left = rest;
            if !is_same(sector) {
                run = Some(run.map_or(sector, |run| run.joined(Some(sector))));
            } else if run.is_some() {
                break;
            }
        }
        run
    })
}

#[kunit_tests(clone_rs_look)]
mod tests {
    use super::*;
    use crate::mapping::geometry::Geometry;

    #[test]
    fn adjacent_sectors_that_differ_are_one_run() -> Result {
        let geometry = Geometry::new(0, 100, 0, 0, 8).map_err(|_| EINVAL)?;
        let part = geometry.range(10, 8).ok_or(EINVAL)?;
        for (differ, wanted) in [
            (&[][..], &[][..]),
            (&[10], &[(10, 1)]),
            (&[17], &[(17, 1)]),
            (&[10, 11, 13, 16, 17], &[(10, 2), (13, 1), (16, 2)]),
            (&[10, 11, 12, 13, 14, 15, 16, 17], &[(10, 8)]),
            // Those around it are not looked at.
            (&[9, 18], &[]),
        ] {
            let found = runs(part, |sector| !differ.contains(&sector.start()));
            assert!(found
                .map(|run| (run.start(), run.len()))
                .eq(wanted.iter().copied()));
        }
        Ok(())
    }
}
