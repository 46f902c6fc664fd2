// SPDX-License-Identifier: GPL-2.0

//! The second write, to the clone, of a user's write that is no whole logical blocks there: what
//! the clone has beside it is read, and written with it. As of a twin only what is in sync reaches
//! the clone; as regions are whole blocks there, so is what is left of it.
//!
//! Nobody else changes these blocks meanwhile: what is in the table keeps away all that goes to the
//! same blocks of the clone (`Geometry::rounded_out`), jobs among them, as no block belongs to two
//! regions. What lies outside the target is the administrator's to keep from being written.

use super::{
    geometry::{Blocks, Geometry, Range},
    in_flight::{Kind, Ticket},
    stock::{Leg, COPY_SECTORS},
    Mapping,
};
use crate::abstractions::{
    bio::{self, BioOwner, BioSet, BufferedBio, Manner, Op, Status},
    device_mapper::BioShare,
    workqueue::{enqueue, OwnedQueue, QueuedItem},
};
use kernel::{
    impl_has_work, new_work, pr_warn_once,
    prelude::*,
    sync::Arc,
    workqueue::{Work, WorkItem},
};

/// A bio for the clone with memory for the blocks that a write touches, and for one more, which is
/// read; and a work item. It is owned by the stock, the block layer or the workqueue.
#[pin_data]
pub(super) struct Merge {
    #[pin]
    work: Work<Merge>,
    queue: Arc<OwnedQueue>,
    bio: BufferedBio,
    /// Where in the memory the block is that is read, in sectors.
    read_to: u64,
    /// What it was sent out for; `None` in the stock.
    flight: Option<Flight>,
}

/// What a merge takes along.
struct Flight {
    mapping: Arc<Mapping>,
    ticket: Ticket,
    /// What the user writes, and the blocks of the clone that hold it: they are at the beginning of
    /// the memory.
    range: Range,
    blocks: Blocks,
    share: BioShare,
    manner: Manner,
    /// The part of the range that is on its way. It was in sync when that was decided, and nobody
    /// but this writes there on the clone until all of it has ended: so what is read of its blocks
    /// after that is what they have when they are written.
    piece: Range,
    stage: Stage,
    status: Option<Status>,
}

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The block is read that is so many sectors after the first one.
    Read(u64),
    /// The piece is written, with the rest of its blocks.
    Write,
}

impl_has_work! {
    impl HasWork<Self> for Merge { self.work }
}

impl Merge {
    /// Allocates one. Context: process, may sleep. Errors: `ENOMEM`.
    pub(super) fn new(
        set: &Arc<BioSet>,
        queue: &Arc<OwnedQueue>,
        geometry: &Geometry,
    ) -> Result<Pin<KBox<Self>>> {
        let block = geometry.clone_block();
        let read_to = COPY_SECTORS + 2 * block;
        let bio = BufferedBio::new(set.clone(), u32::try_from(read_to + block)?)?;
        let queue = queue.clone();
        KBox::pin_init(
            pin_init!(Self {
                work <- new_work!("dm_clone_rs::Merge::work"),
                queue,
                bio,
                read_to,
                flight: None,
            }),
            GFP_KERNEL,
        )
    }

    /// A write was admitted, of at most [`COPY_SECTORS`]: its data is copied, and goes to the
    /// clone. Context: process.
    pub(super) fn begin(
        mut self: Pin<KBox<Self>>,
        mapping: Arc<Mapping>,
        ticket: Ticket,
        range: Range,
        share: BioShare,
    ) {
        let blocks = mapping.geometry.clone_blocks(range);
        let manner = Manner::of(&share);
        let bio = self.as_mut().project().bio;
        let copied = bio.copy_shared(&share, manner, blocks.lead);
        let flight = Flight {
            mapping,
            ticket,
            range,
            blocks,
            share,
            manner,
            piece: range,
            stage: Stage::Write,
            status: None,
        };
        if copied.is_err() {
            pr_warn_once!("a write's data could not be copied\n");
            return self.end(flight, Some(Status::IO_ERROR));
        }
        self.next_piece(flight, range.start());
    }

    /// What comes next from a sector on, if there is more.
    fn next_piece(self: Pin<KBox<Self>>, mut flight: Flight, from: u64) {
        match (flight.mapping).next_piece(Kind::Duplicate, flight.range, from) {
            Some(piece) => {
                flight.piece = piece;
                let stage = flight.stage_after(None);
                self.send(flight, stage);
            }
            None => self.end(flight, None),
        }
    }

    /// Reads a block, or writes the piece.
    fn send(mut self: Pin<KBox<Self>>, mut flight: Flight, stage: Stage) {
        let this = self.as_mut().project();
        let first = flight.blocks.sector;
        let (legs, geometry) = (&flight.mapping.legs, &flight.mapping.geometry);
        let prepared = match stage {
            Stage::Read(edge) => {
                let place = (*this.read_to, geometry.clone_block());
                (this.bio).prepare_read(&legs.clone, first + edge, place)
            }
            Stage::Write => {
                let Blocks {
                    sector, sectors, ..
                } = geometry.clone_blocks(flight.piece);
                (this.bio).prepare_write(&legs.clone, sector, (sector - first, sectors))
            }
        };
        flight.stage = stage;
        if prepared.is_err() {
            // It ends with an error.
            pr_warn_once!("there is no memory for a write\n");
        }
        this.bio.set_manner(flight.manner, legs.clone_fua);
        *this.flight = Some(flight);
        bio::submit(self);
    }

    /// What the clone has in that block beside what is written.
    fn fill(self: Pin<&mut Self>, flight: &Flight, edge: u64) {
        let this = self.project();
        let Blocks { lead, .. } = flight.blocks;
        let (data_end, end) = (
            lead + flight.range.len(),
            edge + flight.mapping.geometry.clone_block(),
        );
        let memory = this.bio.memory_mut();
        for (from, to) in [(edge, lead), (data_end.max(edge), end)] {
            let from_read = *this.read_to + (from - edge);
            memory.copy(from_read, from, to.saturating_sub(from));
        }
    }

    /// It has ended: all of it, or with the failure of what was under way. Context: process.
    fn end(self: Pin<KBox<Self>>, flight: Flight, failure: Option<Status>) {
        let Flight {
            mapping,
            ticket,
            share,
            piece,
            stage,
            ..
        } = flight;
        if let Some(status) = failure {
            let op = if stage == Stage::Write {
                Op::Write
            } else {
                Op::Read
            };
            mapping.leg_failed((ticket, Kind::Duplicate), op, piece, status);
        }
        mapping.put_home(Leg::Merge(self), None);
        // As for a twin.
        drop(mapping);
        drop(share);
    }
}

impl Flight {
    /// The next block of the piece is read that is written in part only, after the last one that
    /// was; else it is written.
    fn stage_after(&self, edge: Option<u64>) -> Stage {
        let geometry = &self.mapping.geometry;
        let blocks = geometry.clone_blocks(self.piece);
        let first = blocks.sector - self.blocks.sector;
        let last = first + blocks.sectors - geometry.clone_block();
        let ends_within = blocks.lead + self.piece.len() < blocks.sectors;
        next_stage((first, blocks.lead > 0), (last, ends_within), edge)
    }
}

/// What comes after the read of a block, or at first, where the first and the last block are
/// written in part only, or not.
fn next_stage(
    (first, begins_within): (u64, bool),
    (last, ends_within): (u64, bool),
    edge: Option<u64>,
) -> Stage {
    match edge {
        None if begins_within => Stage::Read(first),
        None if ends_within => Stage::Read(last),
        Some(edge) if ends_within && edge < last => Stage::Read(last),
        _ => Stage::Write,
    }
}

impl BioOwner for Merge {
    type Bio = BufferedBio;

    fn bio(self: Pin<&mut Self>) -> &mut BufferedBio {
        self.project().bio
    }

    /// Context: any.
    fn end_io(mut merge: Pin<KBox<Self>>, status: Status) {
        if let Some(flight) = merge.as_mut().project().flight {
            flight.status = Some(status);
        }
        enqueue(merge);
    }
}

impl QueuedItem for Merge {
    fn queue(&self) -> &OwnedQueue {
        &self.queue
    }
}

impl WorkItem for Merge {
    type Pointer = Pin<KBox<Self>>;

    fn run(mut merge: Pin<KBox<Self>>) {
        let Some(flight) = merge.as_mut().project().flight.take() else {
            pr_warn_once!("a merge without a write was queued; it is dropped\n");
            return;
        };
        let status = flight.status.unwrap_or(Status::IO_ERROR);
        if !status.is_ok() {
            return merge.end(flight, Some(status));
        }
        if flight.stage == Stage::Write {
            flight.mapping.mark_unflushed(flight.piece);
        }
        // What is detached meanwhile leaves all of it dirty.
        if !flight.mapping.is_attached() {
            return merge.end(flight, None);
        }
        match flight.stage {
            Stage::Read(edge) => {
                merge.as_mut().fill(&flight, edge);
                let stage = flight.stage_after(Some(edge));
                merge.send(flight, stage);
            }
            Stage::Write => {
                let from = flight.piece.end();
                merge.next_piece(flight, from);
            }
        }
    }
}

#[kunit_tests(clone_rs_merge)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_that_are_written_in_part_are_read() -> Result {
        // Of blocks of 8 sectors: which are the first and the last, where the data begins and ends,
        // and what is read.
        for (first, last, within, reads) in [
            (0, 0, (false, false), &[][..]),
            (0, 24, (false, false), &[]),
            (8, 8, (true, true), &[8]),
            (8, 8, (true, false), &[8]),
            (8, 8, (false, true), &[8]),
            (0, 24, (true, false), &[0]),
            (0, 24, (false, true), &[24]),
            (8, 24, (true, true), &[8, 24]),
        ] {
            let mut edge = None;
            let mut found = KVec::new();
            while let Stage::Read(block) = next_stage((first, within.0), (last, within.1), edge) {
                found.push(block, GFP_KERNEL)?;
                edge = Some(block);
            }
            assert_eq!(&*found, reads);
        }
        Ok(())
    }
}
