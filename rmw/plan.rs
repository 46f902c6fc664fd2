// SPDX-License-Identifier: GPL-2.0

//! The ranges that were asked for by `copy` messages: they go before all others.

use crate::mapping::geometry::Span;
use kernel::prelude::*;

/// The most ranges that wait at a time.
const MAX_RANGES: usize = 64;

/// A range, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Planned {
    span: Span,
    /// The next region to look at.
    next: u64,
    /// Whether all are to be looked at again: a job that began before the message may have had some
    /// of them, or one has put some back.
    again: bool,
    /// Whether some have to wait for a discard.
    kept_away: bool,
}

/// First come, first served. Locking: its owner's.
pub(super) struct Plan {
    ranges: KVec<Planned>,
}

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// Dirty regions from the first one up to the second one.
    Look(u64, u64),
    /// All regions were looked at: jobs must end before more is to be done.
    Wait,
    /// The same of a discard, and nobody may say when it has ended: look again after a while.
    Later,
    /// There is no range.
    Empty,
}

impl Plan {
    /// Allocates an empty plan. Errors: `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            ranges: KVec::with_capacity(MAX_RANGES, GFP_KERNEL)?,
        })
    }

    /// What stands for a plan that was taken away; allocates nothing.
    pub(super) fn none() -> Self {
        Self {
            ranges: KVec::new(),
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether no range can be added.
    pub(super) fn is_full(&self) -> bool {
        self.ranges.len() >= MAX_RANGES
    }

    /// Adds regions, all of which are dirty, while jobs are in flight or not. Errors: `EBUSY` where
    /// too many wait already.
    pub(super) fn add(&mut self, span: Span, jobs: bool) -> Result {
        let planned = Planned {
            span,
            next: span.first(),
            again: jobs,
            kept_away: false,
        };
        self.ranges.push_within_capacity(planned).map_err(|_| EBUSY)
    }

    /// What to look for next, while jobs are in flight or not. A range is done when no job is in
    /// flight any more and none of it is to be looked at again.
    pub(super) fn search(&mut self, jobs: bool) -> Search {
        while let Some(first) = self.ranges.first_mut() {
            if first.next < first.span.end() {
                return Search::Look(first.next, first.span.end());
            }
            if jobs {
                return Search::Wait;
            }
            // The discard's end wakes the scheduler once. That may be past: while jobs were in
            // flight the answer to it was `Wait`, and of the last job's end a suspend, not the
            // scheduler, may have heard. So this must not wait for an event.
            if core::mem::take(&mut first.kept_away) {
                first.again = true;
                return Search::Later;
            }
            if core::mem::take(&mut first.again) {
                first.next = first.span.first();
            } else {
                let _ = self.ranges.remove(0);
            }
        }
        Search::Empty
    }

    /// A discard kept a job away from some regions of that search.
    pub(super) fn keep_away(&mut self) {
        if let Some(first) = self.ranges.first_mut() {
            first.kept_away = true;
        }
    }

    /// A job has put its regions back, which may be some of the first range.
    pub(super) fn look_again(&mut self) {
        if let Some(first) = self.ranges.first_mut() {
            first.again = true;
        }
    }

    /// That search went up to `to`; the plan may have been emptied and refilled meanwhile.
    pub(super) fn advance(&mut self, search: Search, to: u64) {
        if let (Some(first), Search::Look(next, end)) = (self.ranges.first_mut(), search) {
            if (first.next, first.span.end()) == (next, end) {
                first.next = to;
            }
        }
    }

    /// Forgets the ranges that end after so many regions.
    pub(super) fn cut(&mut self, regions: u64) {
        self.ranges.retain(|planned| planned.span.end() <= regions);
    }

    /// Forgets all ranges.
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[kunit_tests(clone_rs_plan)]
mod tests {
    use super::*;
    use crate::mapping::geometry::Geometry;

    fn span(first: u64, end: u64) -> Result<Span> {
        Geometry::new(0, 1 << 20, 0, 0, 8)
            .map_err(|_| EINVAL)?
            .span(first, end)
            .ok_or(EINVAL)
    }

    /// All up to `to` was looked at.
    fn pass(plan: &mut Plan, jobs: bool, to: u64) {
        let search = plan.search(jobs);
        plan.advance(search, to);
    }

    #[test]
    fn ranges_come_in_order() -> Result {
        let mut plan = Plan::new()?;
        assert_eq!(plan.search(false), Search::Empty);
        plan.add(span(100, 120)?, false)?;
        plan.add(span(0, 8)?, false)?;
        let search = plan.search(true);
        assert_eq!(search, Search::Look(100, 120));
        plan.advance(search, 110);
        assert_eq!(plan.search(true), Search::Look(110, 120));
        pass(&mut plan, true, 120);
        assert_eq!(plan.search(true), Search::Wait);
        assert_eq!(plan.search(false), Search::Look(0, 8));
        pass(&mut plan, false, 8);
        assert!(!plan.is_empty());
        assert_eq!(plan.search(false), Search::Empty);
        assert!(plan.is_empty());
        Ok(())
    }

    #[test]
    fn what_older_jobs_had_is_looked_at_again_when_they_have_ended() -> Result {
        let mut plan = Plan::new()?;
        plan.add(span(0, 8)?, true)?;
        pass(&mut plan, true, 8);
        assert_eq!(plan.search(true), Search::Wait);
        assert_eq!(plan.search(false), Search::Look(0, 8));
        pass(&mut plan, false, 8);
        assert_eq!(plan.search(false), Search::Empty);
        Ok(())
    }

    #[test]
    fn what_jobs_put_back_is_looked_at_again() -> Result {
        let mut plan = Plan::new()?;
        plan.add(span(0, 8)?, false)?;
        pass(&mut plan, false, 8);
        assert_eq!(plan.search(true), Search::Wait);
        plan.look_again();
        assert_eq!(plan.search(false), Search::Look(0, 8));
        pass(&mut plan, false, 8);
        assert_eq!(plan.search(false), Search::Empty);
        Ok(())
    }

    /// Nobody may tell of the discard's end: only while jobs are in flight is an event waited for.
    #[test]
    fn what_a_discard_holds_is_looked_at_again_without_an_event() -> Result {
        for jobs in [false, true] {
            let mut plan = Plan::new()?;
            plan.add(span(0, 8)?, jobs)?;
            plan.keep_away();
            pass(&mut plan, jobs, 8);
            if jobs {
                // The discard's end, which nothing comes of.
                assert_eq!(plan.search(true), Search::Wait);
            }
            assert_eq!(plan.search(false), Search::Later);
            assert_eq!(plan.search(false), Search::Look(0, 8));
            pass(&mut plan, false, 8);
            assert_eq!(plan.search(false), Search::Empty);
        }
        Ok(())
    }

    #[test]
    fn a_full_plan_refuses_and_keeps_what_it_has() -> Result {
        let mut plan = Plan::new()?;
        for i in 0..MAX_RANGES as u64 {
            assert!(!plan.is_full());
            plan.add(span(i, i + 1)?, false)?;
        }
        assert!(plan.is_full());
        assert!(plan.add(span(0, 1)?, false).is_err());
        for i in 0..MAX_RANGES as u64 {
            assert_eq!(plan.search(false), Search::Look(i, i + 1));
            pass(&mut plan, false, i + 1);
        }
        assert_eq!(plan.search(false), Search::Empty);
        Ok(())
    }

    #[test]
    fn a_search_of_a_plan_that_was_emptied_counts_for_nothing() -> Result {
        let mut plan = Plan::new()?;
        plan.add(span(0, 8)?, false)?;
        let search = plan.search(false);
        plan.clear();
        plan.advance(search, 8);
        plan.add(span(16, 24)?, false)?;
        plan.advance(search, 8);
        assert_eq!(plan.search(false), Search::Look(16, 24));
        Ok(())
    }
}
