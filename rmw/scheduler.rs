// SPDX-License-Identifier: GPL-2.0

//! What is copied next.

use super::{engine::Engine, job::Job, read};
use crate::{abstractions::block::plugged, mapping::geometry::Range};
use kernel::{pr_warn_once, prelude::*, sync::Arc};

/// The most ranges that may be asked for at a time.
pub(super) const MAX_RANGES: usize = 64;

/// Ranges that wait to be copied, first come, first served.
///
/// # Invariants
///
/// `ranges` has room for [`MAX_RANGES`] and for a run of each job, so that nothing is allocated
/// after `new`.
pub(super) struct Plan {
    ranges: KVec<Range>,
}

impl Plan {
    /// Allocates an empty plan for `jobs` jobs. Errors: `ENOMEM`.
    pub(super) fn new(jobs: u32) -> Result<Self> {
        // INVARIANT: With that capacity.
        Ok(Self {
            ranges: KVec::with_capacity(MAX_RANGES + jobs as usize, GFP_KERNEL)?,
        })
    }

    /// Adds a range. Errors: `EBUSY` where too many wait already.
    pub(super) fn add(&mut self, range: Range) -> Result {
        if self.ranges.len() >= MAX_RANGES {
            return Err(EBUSY);
        }
        self.ranges.push_within_capacity(range).map_err(|_| EBUSY)
    }

    /// Puts a run back that was taken, before all others.
    pub(super) fn put_back(&mut self, run: Range) {
        if self.ranges.insert_within_capacity(0, run).is_err() {
            pr_warn_once!("there is no room for a run that was put back\n");
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Takes the next run of at most `batch` sectors, unless it `must_wait`. Ranges and `batch` are
    /// made of whole logical blocks of both devices, so a run is, too.
    pub(super) fn next(&mut self, batch: u64, must_wait: impl Fn(Range) -> bool) -> Option<Range> {
        let first = self.ranges.first_mut()?;
        let (run, rest) = first.split(batch);
        if must_wait(run) {
            return None;
        }
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
        let mut plan = Plan::new(2)?;
        assert!(plan.is_empty());
        plan.add(range(100, 20)?)?;
        plan.add(range(0, 8)?)?;
        assert_eq!(plan.next(8, |_| false), Some(range(100, 8)?));
        assert_eq!(plan.next(8, |_| false), Some(range(108, 8)?));
        assert_eq!(plan.next(8, |_| false), Some(range(116, 4)?));
        assert!(!plan.is_empty());
        assert_eq!(plan.next(8, |_| false), Some(range(0, 8)?));
        assert_eq!(plan.next(8, |_| false), None);
        assert!(plan.is_empty());
        Ok(())
    }

    #[test]
    fn a_full_plan_refuses_and_keeps_what_it_has() -> Result {
        let mut plan = Plan::new(2)?;
        for i in 0..MAX_RANGES as u64 {
            plan.add(range(i * 8, 8)?)?;
        }
        assert!(plan.add(range(0, 8)?).is_err());
        for i in 0..MAX_RANGES as u64 {
            assert_eq!(plan.next(2048, |_| false), Some(range(i * 8, 8)?));
        }
        assert!(plan.is_empty());
        Ok(())
    }

    #[test]
    fn a_run_that_must_wait_stays_first() -> Result {
        let mut plan = Plan::new(2)?;
        plan.add(range(0, 16)?)?;
        assert_eq!(plan.next(8, |run| run.start() == 0), None);
        assert_eq!(plan.next(8, |_| false), Some(range(0, 8)?));
        Ok(())
    }

    #[test]
    fn what_is_put_back_comes_first_also_where_the_plan_is_full() -> Result {
        let mut plan = Plan::new(2)?;
        for i in 0..MAX_RANGES as u64 {
            plan.add(range(i * 8, 8)?)?;
        }
        plan.put_back(range(800, 8)?);
        plan.put_back(range(808, 8)?);
        assert_eq!(plan.next(8, |_| false), Some(range(808, 8)?));
        assert_eq!(plan.next(8, |_| false), Some(range(800, 8)?));
        assert_eq!(plan.next(8, |_| false), Some(range(0, 8)?));
        Ok(())
    }
}
