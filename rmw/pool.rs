// SPDX-License-Identifier: GPL-2.0

//! The slots: how many there are, and which of them are at home.

use super::slot::Slot;
use crate::{
    abstractions::{
        bio::{BioSet, SECTOR_SIZE},
        workqueue::OwnedQueue,
    },
    mapping::geometry::Geometry,
};
use kernel::{pr_warn_once, prelude::*, sync::Arc};

/// How many jobs there are, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pipeline {
    /// The most jobs in flight.
    pub(crate) depth: u32,
    /// The most sectors of a bio, and of a job, but that a job has at least a region.
    pub(crate) batch: u32,
}

impl Pipeline {
    /// 8 jobs of 1 MiB.
    pub(crate) const DEFAULT: Self = Self {
        depth: 8,
        batch: 2048,
    };
    /// The largest `depth`.
    pub(crate) const MAX_DEPTH: u32 = 256;
    /// The largest `batch`: 8 MiB.
    pub(crate) const MAX_BATCH: u32 = 16384;
    /// What `batch` is a multiple of, whatever the devices' logical blocks are.
    pub(crate) const BATCH_UNIT: u32 = 8;

    /// The memory that the jobs have, in bytes.
    pub(super) fn bytes(self, geometry: &Geometry) -> u64 {
        let (_, sectors) = Slot::sizes(self.batch, geometry);
        u64::from(self.depth) * sectors * SECTOR_SIZE as u64
    }

    /// Allocates `count` slots of a generation. Context: process, may sleep. Errors: `ENOMEM`.
    pub(super) fn slots(
        self,
        generation: u64,
        count: u32,
        geometry: &Geometry,
        queue: &Arc<OwnedQueue>,
    ) -> Result<KVec<Pin<KBox<Slot>>>> {
        let set = Arc::pin_init(BioSet::new(count), GFP_KERNEL)?;
        let mut slots = KVec::with_capacity(count as usize, GFP_KERNEL)?;
        for _ in 0..count {
            let slot = Slot::new(queue.clone(), set.clone(), self.batch, geometry, generation)?;
            slots.push_within_capacity(slot).map_err(|_| ENOMEM)?;
        }
        Ok(slots)
    }
}

/// The slots at home. Locking: its owner's.
pub(super) struct Pool {
    pipeline: Pipeline,
    /// Has room for [`Pipeline::MAX_DEPTH`].
    home: KVec<Pin<KBox<Slot>>>,
    /// How many are not at home.
    out: u32,
    /// How many there are that fit `pipeline`, at home or not: those of this generation.
    fit: u32,
    /// How often `batch` was changed.
    generation: u64,
}

impl Pool {
    /// Allocates a full pool. Errors: `ENOMEM`.
    pub(super) fn new(
        pipeline: Pipeline,
        geometry: &Geometry,
        queue: &Arc<OwnedQueue>,
    ) -> Result<Self> {
        let mut home = KVec::with_capacity(Pipeline::MAX_DEPTH as usize, GFP_KERNEL)?;
        for slot in pipeline.slots(0, pipeline.depth, geometry, queue)? {
            home.push_within_capacity(slot).map_err(|_| ENOMEM)?;
        }
        Ok(Self {
            pipeline,
            home,
            out: 0,
            fit: pipeline.depth,
            generation: 0,
        })
    }

    /// How many jobs there may be, and how large.
    pub(super) fn pipeline(&self) -> Pipeline {
        self.pipeline
    }

    /// How many slots are not at home.
    pub(super) fn out(&self) -> u32 {
        self.out
    }

    /// Takes a slot out, unless all that may be are.
    pub(super) fn take(&mut self) -> Option<Pin<KBox<Slot>>> {
        if self.out >= self.pipeline.depth {
            return None;
        }
        let slot = self.home.pop()?;
        self.out += 1;
        Some(slot)
    }

    /// Takes a slot back; one that is of no use any more is returned, to be dropped without a lock.
    pub(super) fn put(&mut self, slot: Pin<KBox<Slot>>) -> Option<Pin<KBox<Slot>>> {
        self.out = self.out.saturating_sub(1);
        if slot.generation() != self.generation {
            return Some(slot);
        }
        if self.fit > self.pipeline.depth {
            self.fit -= 1;
            return Some(slot);
        }
        if self.home.push_within_capacity(slot).is_err() {
            pr_warn_once!("more slots came home than there are\n");
        }
        None
    }

    /// How many slots another pipeline needs that are not there yet, and their generation.
    pub(super) fn missing(&self, pipeline: Pipeline) -> (u32, u64) {
        if pipeline.batch == self.pipeline.batch {
            (pipeline.depth.saturating_sub(self.fit), self.generation)
        } else {
            (pipeline.depth, self.generation + 1)
        }
    }

    /// Changes to another pipeline, with the slots that were [`missing`](Self::missing), unless
    /// more are by now; returns whether it did. Those at home that are of no use any more are left
    /// in `slots`, which has room for them; those in flight are returned when they come home.
    pub(super) fn change(&mut self, pipeline: Pipeline, slots: &mut KVec<Pin<KBox<Slot>>>) -> bool {
        let (missing, generation) = self.missing(pipeline);
        if missing as usize > slots.len() {
            return false;
        }
        if generation != self.generation {
            // Both have room for the largest depth.
            core::mem::swap(&mut self.home, slots);
            self.fit = pipeline.depth;
            self.generation = generation;
        } else {
            while let Some(slot) = slots.pop() {
                let _ = self.home.push_within_capacity(slot);
                self.fit += 1;
            }
            while self.fit > pipeline.depth {
                let Some(slot) = self.home.pop() else {
                    break;
                };
                let _ = slots.push_within_capacity(slot);
                self.fit -= 1;
            }
        }
        self.pipeline = pipeline;
        true
    }
}
