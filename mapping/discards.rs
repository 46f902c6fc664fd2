// SPDX-License-Identifier: GPL-2.0

//! Discards in flight.
//!
//! What a discard leaves on the backing device is seen by a read that comes after it, and not by
//! one before: no job may read where a discard is in flight. A discard enters here and then marks
//! its regions; a job claims its regions and then looks here. Each of these steps is a full
//! barrier, so one of the two sees the other: the job puts its regions back, or the discard finds
//! them claimed, and they are skipped, or dirty, when the job has ended.

use super::geometry::{Geometry, Range};
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Full, Relaxed},
};

/// The target is divided into at most so many stripes.
const STRIPES: u64 = 1024;

/// Counts them for each stripe of the target. A look is coarse: it may see one that is only near.
///
/// Locking: none; any context.
pub(super) struct Discards {
    stripes: KVec<Atomic<u32>>,
    shift: u32,
}

impl Discards {
    /// Allocates the counters. Errors: `ENOMEM`.
    pub(super) fn new(geometry: &Geometry) -> Result<Self> {
        let shift = geometry
            .len()
            .div_ceil(STRIPES)
            .next_power_of_two()
            .trailing_zeros();
        let count = geometry.len().div_ceil(1 << shift) as usize;
        let mut stripes = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            stripes
                .push_within_capacity(Atomic::new(0))
                .map_err(|_| ENOMEM)?;
        }
        Ok(Self { stripes, shift })
    }

    /// A discard of `range` begins.
    pub(super) fn enter(&self, range: Range) {
        for stripe in self.stripes(range) {
            stripe.fetch_add(1, Full);
        }
    }

    /// It has ended, and its regions are marked.
    pub(super) fn leave(&self, range: Range) {
        for stripe in self.stripes(range) {
            stripe.fetch_sub(1, Full);
        }
    }

    /// Whether one may be in flight in `range`.
    pub(super) fn touch(&self, range: Range) -> bool {
        self.stripes(range).any(|stripe| stripe.load(Relaxed) != 0)
    }

    fn stripes(&self, range: Range) -> impl Iterator<Item = &Atomic<u32>> {
        let first = (range.start() >> self.shift) as usize;
        let last = ((range.end() - 1) >> self.shift) as usize;
        self.stripes.get(first..=last).unwrap_or(&[]).iter()
    }
}

#[kunit_tests(clone_rs_discards)]
mod tests {
    use super::*;

    #[test]
    fn a_discard_is_seen_from_enter_to_leave() -> Result {
        for len in [1, 1000, 1 << 20, (1 << 20) + 1] {
            let geometry = Geometry::new(0, len, 0, 0, 8).map_err(|_| EINVAL)?;
            let discards = Discards::new(&geometry)?;
            assert!(discards.stripes.len() as u64 <= STRIPES);
            let last = geometry.range(len - 1, 1).ok_or(EINVAL)?;
            discards.enter(last);
            discards.enter(geometry.all());
            assert!(discards.touch(last));
            discards.leave(geometry.all());
            assert!(discards.touch(last));
            discards.leave(last);
            assert!(!discards.touch(geometry.all()));
        }
        Ok(())
    }
}
