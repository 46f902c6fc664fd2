// SPDX-License-Identifier: GPL-2.0

//! What is copied next.

use super::{engine::Engine, job::Job, read};
use crate::{abstractions::block::plugged, mapping::geometry::Range};
use kernel::{prelude::*, sync::Arc};

/// The most ranges that wait at a time.
pub(super) const MAX_RANGES: usize = 64;

/// Ranges that wait to be copied, first come, first served.
///
/// # Invariants
///
/// `ranges` has room for [`MAX_RANGES`], so that nothing is allocated after `new`.
pub(super) struct Plan {
    ranges: KVec<Range>,
}

impl Plan {
    /// Allocates an empty plan. Errors: `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        // INVARIANT: With that capacity.
        Ok(Self {
            ranges: KVec::with_capacity(MAX_RANGES, GFP_KERNEL)?,
        })
    }

    /// Adds a range. Errors: `EBUSY` where too many wait already.
    pub(super) fn add(&mut self, range: Range) -> Result {
        if self.ranges.len() >= MAX_RANGES {
            return Err(EBUSY);
        }
        self.ranges.push_within_capacity(range).map_err(|_| EBUSY)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Takes the next run of at most `batch` sectors. `batch` is a multiple of 8 and ranges begin on
    /// logical blocks of both devices, so a run does, too.
    pub(super) fn next(&mut self, batch: u64) -> Option<Range> {
        let first = self.ranges.first_mut()?;
        let (run, rest) = first.split(batch);
        match rest {
            Some(rest) => *first = rest,
            None => {
                let _ = self.ranges.remove(0);
            }
        }
        Some(run)
    }
}

/// Gives every idle slot a run, and starts reading. Context: process, may wait for a request.
pub(super) fn refill(engine: &Arc<Engine>) {
    plugged(|| {
        while let Some((slot, run)) = engine.take_work() {
            read::submit(Job::new(slot, engine.clone(), run));
        }
    });
}

#[kunit_tests(clone_rs_scheduler)]
mod tests {
    use super::*;
    use crate::mapping::geometry::Geometry;

    fn range(start: u64, len: u64) -> Result<Range> {
        Geometry::new(0, 1 << 20, 0, 0, 8)
            .map_err(|_| EINVAL)?
            .range(start, len)
            .ok_or(EINVAL)
    }

    #[test]
    fn runs_are_cut_from_the_ranges_in_order() -> Result {
        let mut plan = Plan::new()?;
        assert!(plan.is_empty());
        plan.add(range(100, 20)?)?;
        plan.add(range(0, 8)?)?;
        assert_eq!(plan.next(8), Some(range(100, 8)?));
        assert_eq!(plan.next(8), Some(range(108, 8)?));
        assert_eq!(plan.next(8), Some(range(116, 4)?));
        assert!(!plan.is_empty());
        assert_eq!(plan.next(8), Some(range(0, 8)?));
        assert_eq!(plan.next(8), None);
        assert!(plan.is_empty());
        Ok(())
    }

    #[test]
    fn a_full_plan_refuses_and_keeps_what_it_has() -> Result {
        let mut plan = Plan::new()?;
        for i in 0..MAX_RANGES as u64 {
            plan.add(range(i * 8, 8)?)?;
        }
        assert!(plan.add(range(0, 8)?).is_err());
        for i in 0..MAX_RANGES as u64 {
            assert_eq!(plan.next(2048), Some(range(i * 8, 8)?));
        }
        assert!(plan.is_empty());
        Ok(())
    }
}
