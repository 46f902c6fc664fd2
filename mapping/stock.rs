// SPDX-License-Identifier: GPL-2.0

//! What writes to both devices are made with. All of it is allocated before there are any: a write
//! that finds nothing left waits for another one to end, which needs nothing more.

use super::{duplicate::Twin, geometry::Geometry, in_flight::CAPACITY, merge::Merge};
use crate::abstractions::{
    bio::{BioSet, BufferedBio},
    workqueue::OwnedQueue,
};
use kernel::{pr_warn_once, prelude::*, sync::Arc};

/// The most sectors of a write that goes through memory of our own; what is longer is cut.
pub(super) const COPY_SECTORS: u64 = 256;

/// How many such writes may be in flight, and as many that are merged.
const COPIES: usize = 64;

/// Locking: its owner's.
pub(super) struct Stock {
    /// Bios for the clone.
    twins: KVVec<Pin<KBox<Twin>>>,
    /// Memory for the data of writes whose own does not do.
    copies: KVec<KBox<BufferedBio>>,
    /// For writes that are no whole blocks of the clone.
    merges: KVec<Pin<KBox<Merge>>>,
}

/// What reaches the clone of a write.
pub(super) enum Leg {
    /// The write as it is.
    Twin(Pin<KBox<Twin>>),
    /// The blocks that it changes in part.
    Merge(Pin<KBox<Merge>>),
}

/// What one write needs.
pub(super) struct Supplies {
    pub(super) leg: Leg,
    pub(super) copy: Option<KBox<BufferedBio>>,
}

impl Stock {
    /// Nothing at all.
    pub(super) const fn empty() -> Self {
        Self {
            twins: KVVec::new(),
            copies: KVec::new(),
            merges: KVec::new(),
        }
    }

    /// Allocates all, memory to copy to only `with_copies`. Context: process, may sleep. Errors:
    /// `ENOMEM`.
    pub(super) fn new(
        queue: &Arc<OwnedQueue>,
        geometry: &Geometry,
        with_copies: bool,
    ) -> Result<Self> {
        let mut twins = KVVec::with_capacity(CAPACITY, GFP_KERNEL)?;
        let set = Arc::pin_init(BioSet::new(0), GFP_KERNEL)?;
        for _ in 0..CAPACITY {
            let twin = Twin::new(&set, queue)?;
            twins.push_within_capacity(twin).map_err(|_| ENOMEM)?;
        }
        let count = if with_copies { COPIES } else { 0 };
        let mut copies = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let copy = BufferedBio::new(set.clone(), COPY_SECTORS as u32)?;
            let copy = KBox::new(copy, GFP_KERNEL)?;
            copies.push_within_capacity(copy).map_err(|_| ENOMEM)?;
        }
        let count = if geometry.has_parts() { COPIES } else { 0 };
        let mut merges = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let merge = Merge::new(&set, queue, geometry)?;
            merges.push_within_capacity(merge).map_err(|_| ENOMEM)?;
        }
        Ok(Self {
            twins,
            copies,
            merges,
        })
    }

    /// Takes what one write needs, which is `merged` or not; `None` where there is not all of it.
    pub(super) fn take(&mut self, with_copy: bool, merged: bool) -> Option<Supplies> {
        if with_copy && self.copies.is_empty() {
            return None;
        }
        let leg = if merged {
            Leg::Merge(self.merges.pop()?)
        } else {
            Leg::Twin(self.twins.pop()?)
        };
        let copy = with_copy.then(|| self.copies.pop()).flatten();
        Some(Supplies { leg, copy })
    }

    /// What was taken comes back.
    pub(super) fn give_back(&mut self, supplies: Supplies) {
        self.give_back_leg(supplies.leg);
        if let Some(copy) = supplies.copy {
            self.give_back_copy(copy);
        }
    }

    pub(super) fn give_back_leg(&mut self, leg: Leg) {
        let fits = match leg {
            Leg::Twin(twin) => self.twins.push_within_capacity(twin).is_ok(),
            Leg::Merge(merge) => self.merges.push_within_capacity(merge).is_ok(),
        };
        if !fits {
            pr_warn_once!("more bios for the clone came home than there are\n");
        }
    }

    pub(super) fn give_back_copy(&mut self, copy: KBox<BufferedBio>) {
        if self.copies.push_within_capacity(copy).is_err() {
            pr_warn_once!("more memory for writes came home than there is\n");
        }
    }
}
