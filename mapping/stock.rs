// SPDX-License-Identifier: GPL-2.0

//! What writes to both devices are made with. All of it is allocated before there are any: a write
//! that finds nothing left waits for another one to end, which needs nothing more.

use super::{duplicate::Twin, in_flight::CAPACITY};
use crate::abstractions::{
    bio::{BioSet, BufferedBio},
    workqueue::OwnedQueue,
};
use kernel::{pr_warn_once, prelude::*, sync::Arc};

/// The most sectors of a write that goes through memory of our own; what is longer is cut.
pub(super) const COPY_SECTORS: u64 = 256;

/// How many such writes may be in flight.
const COPIES: usize = 64;

/// Locking: its owner's.
pub(super) struct Stock {
    /// Bios for the clone.
    twins: KVVec<Pin<KBox<Twin>>>,
    /// Memory for the data of writes whose own does not do.
    copies: KVec<KBox<BufferedBio>>,
}

/// What one write needs.
pub(super) struct Supplies {
    pub(super) twin: Pin<KBox<Twin>>,
    pub(super) copy: Option<KBox<BufferedBio>>,
}

impl Stock {
    /// Nothing at all.
    pub(super) const fn empty() -> Self {
        Self {
            twins: KVVec::new(),
            copies: KVec::new(),
        }
    }

    /// Allocates all, memory only `with_copies`. Context: process, may sleep. Errors: `ENOMEM`.
    pub(super) fn new(queue: &Arc<OwnedQueue>, with_copies: bool) -> Result<Self> {
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
        Ok(Self { twins, copies })
    }

    /// Takes what one write needs; `None` where there is not all of it.
    pub(super) fn take(&mut self, with_copy: bool) -> Option<Supplies> {
        if with_copy && self.copies.is_empty() {
            return None;
        }
        let twin = self.twins.pop()?;
        let copy = with_copy.then(|| self.copies.pop()).flatten();
        Some(Supplies { twin, copy })
    }

    /// What was taken comes back.
    pub(super) fn give_back(&mut self, supplies: Supplies) {
        self.give_back_twin(supplies.twin);
        if let Some(copy) = supplies.copy {
            self.give_back_copy(copy);
        }
    }

    pub(super) fn give_back_twin(&mut self, twin: Pin<KBox<Twin>>) {
        if self.twins.push_within_capacity(twin).is_err() {
            pr_warn_once!("more bios for the clone came home than there are\n");
        }
    }

    pub(super) fn give_back_copy(&mut self, copy: KBox<BufferedBio>) {
        if self.copies.push_within_capacity(copy).is_err() {
            pr_warn_once!("more memory for writes came home than there is\n");
        }
    }
}
