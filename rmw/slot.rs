// SPDX-License-Identifier: GPL-2.0

//! The memory of a job: allocated once, used for one job after another.

use super::job::{self, Flight};
use crate::abstractions::{
    bio::{BioOwner, BioSet, BufferedBio, Memory, Status},
    workqueue::{enqueue, OwnedQueue, QueuedItem},
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
    /// Where the second half of its memory begins, in whole blocks.
    half: u32,
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
    /// Allocates a slot for bios of up to `batch` sectors, with room for two logical blocks of
    /// `block` sectors. Errors: `ENOMEM`.
    pub(super) fn new(
        queue: Arc<OwnedQueue>,
        set: Arc<BioSet>,
        batch: u32,
        block: u32,
        generation: u64,
    ) -> Result<Pin<KBox<Self>>> {
        let memory = batch.max(2 * block);
        let bio = BufferedBio::new(set, memory)?;
        KBox::pin_init(
            pin_init!(Self {
                work <- new_work!("dm_clone_rs::Slot::work"),
                queue,
                batch,
                // A logical block is a power of two.
                half: (memory / 2) & block.wrapping_neg(),
                generation,
                bio,
                flight: None,
            }),
            GFP_KERNEL,
        )
    }

    /// Which of the pool's generations it belongs to.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The most sectors of a bio.
    pub(super) fn batch(&self) -> u64 {
        self.batch.into()
    }

    /// Where the second half of its memory begins, in sectors.
    pub(super) fn half(&self) -> u64 {
        self.half.into()
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
