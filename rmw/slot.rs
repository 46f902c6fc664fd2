// SPDX-License-Identifier: GPL-2.0

//! The memory of a job: allocated once, used for one job after another.

use super::job::{self, Flight};
use crate::{
    abstractions::{
        bio::{BioOwner, BioSet, BufferedBio, Memory, Status},
        workqueue::{enqueue, OwnedQueue, QueuedItem},
    },
    mapping::geometry::Geometry,
};
use kernel::{
    impl_has_work, new_work, pr_warn_once,
    prelude::*,
    sync::Arc,
    workqueue::{Work, WorkItem},
};

/// A bio with its memory, and a work item.
///
/// It is owned by one at a time: by the engine while it is idle, by a [`job::Job`], by the block
/// layer while its bio is in flight, or by the workqueue.
#[pin_data]
pub(super) struct Slot {
    #[pin]
    work: Work<Slot>,
    /// Keeps the queue alive until the work has run.
    queue: Arc<OwnedQueue>,
    /// The most sectors of a bio.
    batch: u32,
    /// Where the second half of its memory begins.
    half: u64,
    /// How much of each half is for what is read beside what is copied, see [`Geometry::slack`].
    slack: u64,
    /// Which of the pool's generations it belongs to.
    generation: u64,
    bio: BufferedBio,
    /// What the worker has to do; `None` while a [`job::Job`] or the engine has the slot.
    flight: Option<Flight>,
}

impl_has_work! {
    impl HasWork<Self> for Slot { self.work }
}

impl Slot {
    /// Allocates a slot for bios of up to `batch` sectors, with room for a logical block of either
    /// device in each half of the memory. Errors: `ENOMEM`.
    pub(super) fn new(
        queue: Arc<OwnedQueue>,
        set: Arc<BioSet>,
        batch: u32,
        geometry: &Geometry,
        generation: u64,
    ) -> Result<Pin<KBox<Self>>> {
        let block = block_of(geometry);
        let (slack, memory) = Self::sizes(batch, geometry);
        let bio = BufferedBio::new(set, u32::try_from(memory)?)?;
        KBox::pin_init(
            pin_init!(Self {
                work <- new_work!("dm_clone_rs::Slot::work"),
                queue,
                batch,
                half: (memory / 2) & !(block - 1),
                slack,
                generation,
                bio,
                flight: None,
            }),
            GFP_KERNEL,
        )
    }

    /// How much of each half is slack, and how large all of the memory is, in sectors.
    pub(super) fn sizes(batch: u32, geometry: &Geometry) -> (u64, u64) {
        let block = block_of(geometry);
        let slack = geometry.slack().next_multiple_of(block);
        let memory = (u64::from(batch) + slack).max(2 * (block + slack));
        (slack, memory)
    }

    /// Which of the pool's generations it belongs to.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The most sectors that are copied at a time; fewer where the second half of the memory is
    /// for what the clone has. At least a logical block of either device.
    pub(super) fn most(&self, compares: bool) -> u64 {
        let batch = self.batch.into();
        if compares {
            (self.half - self.slack).min(batch)
        } else {
            batch
        }
    }

    /// Where the second half of its memory begins, in sectors.
    pub(super) fn half(&self) -> u64 {
        self.half
    }

    /// The memory, to be looked at.
    pub(super) fn memory(&self) -> &Memory {
        self.bio.memory()
    }

    /// The bio, to be prepared.
    pub(super) fn bio_mut(self: Pin<&mut Self>) -> &mut BufferedBio {
        self.project().bio
    }

    /// Says what the worker has to do when the slot comes to it.
    pub(super) fn set_flight(self: Pin<&mut Self>, flight: Flight) {
        *self.project().flight = Some(flight);
    }
}

/// The larger one of both devices' logical blocks, which are powers of two.
fn block_of(geometry: &Geometry) -> u64 {
    geometry.backing_block().max(geometry.clone_block())
}

impl BioOwner for Slot {
    type Bio = BufferedBio;

    fn bio(self: Pin<&mut Self>) -> &mut BufferedBio {
        self.bio_mut()
    }

    /// Context: any.
    fn end_io(mut slot: Pin<KBox<Self>>, status: Status) {
        if let Some(flight) = slot.as_mut().project().flight {
            flight.status = Some(status);
        }
        enqueue(slot);
    }
}

impl QueuedItem for Slot {
    fn queue(&self) -> &OwnedQueue {
        &self.queue
    }
}

impl WorkItem for Slot {
    type Pointer = Pin<KBox<Self>>;

    fn run(mut slot: Pin<KBox<Self>>) {
        match slot.as_mut().project().flight.take() {
            Some(flight) => job::go_on(slot, flight),
            None => pr_warn_once!("a slot without a job was queued; it is dropped\n"),
        }
    }
}
