// SPDX-License-Identifier: GPL-2.0

//! How far the copy as a whole is.
//!
//! `complete` is only reached from `completing`, and each write that leaves a region dirty steps
//! back from both: it makes its regions dirty, and then looks here. Who completes does it the other
//! way round: it goes to `completing`, and then looks at the regions. Each of these steps is a full
//! barrier, so one of the two sees the other. The clone is flushed between `completing` and
//! `complete`. The switch to `mirror` steps back, too: writes of `track` may be on their way.

use kernel::sync::atomic::{Atomic, Full, Relaxed};

const COPYING: u32 = 0;
const COMPLETING: u32 = 1;
const COMPLETE: u32 = 2;

/// The word. Locking: none; any context.
pub(crate) struct Phase(Atomic<u32>);

impl Phase {
    /// Something is dirty.
    pub(super) fn new() -> Self {
        Self(Atomic::new(COPYING))
    }

    /// Whether all was in sync or skipped, the clone was flushed, and nothing was written since.
    pub(crate) fn is_complete(&self) -> bool {
        self.0.load(Relaxed) == COMPLETE
    }

    /// Whether it is complete, or about to be, as far as is known.
    pub(crate) fn is_completing(&self) -> bool {
        self.0.load(Relaxed) != COPYING
    }

    /// Something was made dirty, in a step that is a full barrier, or turned out to be. Returns
    /// whether it was `complete`, so that nobody may be looking for work.
    #[inline]
    pub(crate) fn step_back(&self) -> bool {
        self.0.load(Relaxed) != COPYING && self.0.xchg(COPYING, Full) == COMPLETE
    }

    /// Nothing seems to be dirty: the regions are to be looked at after this.
    pub(crate) fn begin_completing(&self) {
        self.0.xchg(COMPLETING, Full);
    }

    /// The regions were looked at, and the clone was flushed after that. Returns whether nothing
    /// was made dirty since [`begin_completing`](Self::begin_completing).
    pub(crate) fn complete(&self) -> bool {
        self.0.cmpxchg(COMPLETING, COMPLETE, Full).is_ok()
    }

    /// Takes over the phase of a target that nobody uses any more.
    pub(super) fn adopt(&self, other: &Self) {
        if other.is_complete() {
            self.0.store(COMPLETE, Relaxed);
        }
    }
}
