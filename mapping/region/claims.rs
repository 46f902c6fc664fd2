// SPDX-License-Identifier: GPL-2.0

//! What a job does to the regions that it copies.

use super::{free, lane, mask, next_word, whole, RegionMap, A, C, D, LANE, LANES, S, T1, T2, V};
use crate::mapping::geometry::Span;
use kernel::{
    prelude::*,
    sync::atomic::{Full, Relaxed},
};

/// Regions that a job copies, and nobody else until it gives them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) span: Span,
    /// Whether none of them was copied before.
    pub(crate) fresh: bool,
}

impl Claim {
    /// What comes before one of its regions, that region, and what comes after it.
    pub(crate) fn split_around(self, region: u64) -> (Option<Self>, Self, Option<Self>) {
        let part = |first: u64, end: u64| {
            (first < end).then(|| Self {
                span: Span::new(first, end - first),
                ..self
            })
        };
        let (first, end) = (self.span.first(), self.span.end());
        let region = region.clamp(first, end - 1);
        let one = Self {
            span: Span::new(region, 1),
            ..self
        };
        (part(first, region), one, part(region + 1, end))
    }
}

impl RegionMap {
    /// The first region from `from` up to `end` that may be claimed: dirty, not claimed by another
    /// job, not put aside.
    pub(crate) fn first_claimable(&self, from: u64, end: u64) -> Option<u64> {
        let mut at = from;
        let end = end.min(self.regions);
        while at < end {
            let free = free(self.word(at)?) & mask(at, end);
            if free != 0 {
                return Some(lane(at, free));
            }
            at = next_word(at);
        }
        None
    }

    /// Claims regions from `first` up to `end`, as far as all may be claimed and are alike: all
    /// fresh or none, and with `holds` all [tried](Self::is_tried). `None` where the first one may
    /// not be claimed any more.
    ///
    /// They are not dirty from here on, so whoever reads them afterwards sees each write that made
    /// them so; with `holds` not before [`drained`](Self::drained).
    ///
    /// Jobs claim one after another (see `rmw::scheduler`).
    pub(crate) fn claim(&self, first: u64, end: u64, holds: bool) -> Option<Claim> {
        let end = end.min(self.regions);
        let lane = self.word(first)? >> (first % LANES * u64::from(LANE));
        let fresh = lane & S & 0xff != 0;
        let mut at = first;
        while at < end {
            let Some(word) = self.words.get((at / LANES) as usize) else {
                break;
            };
            let old = word.load(Relaxed);
            let alike = if fresh { old >> 2 } else { !(old >> 2) };
            let alike = if holds { alike & old >> 5 } else { alike };
            let adjacent = whole(free(old) & alike) >> (at % LANES * u64::from(LANE));
            let count = u64::from(adjacent.trailing_ones() / LANE).min(end - at);
            if count == 0 {
                break;
            }
            let taken = mask(at, at + count);
            let new = if holds {
                (old | (taken & C)) & !(taken & V)
            } else {
                (old | (taken & C)) & !(taken & (D | S | V))
            };
            if word.cmpxchg(old, new, Full).is_err() {
                // A write ended, or a discard began: look again.
                continue;
            }
            self.count(old, new);
            at += count;
            if at % LANES != 0 {
                break;
            }
        }
        (at > first).then(|| Claim {
            span: Span::new(first, at - first),
            fresh,
        })
    }

    /// No write to the regions of a claim that holds is in flight any more: they may be read.
    pub(crate) fn drained(&self, claim: Claim) {
        self.change(claim.span, |old, lanes| old & !(lanes & (D | S)));
    }

    /// Whether a region was copied or claimed in vain so often that writes to it have to wait.
    pub(crate) fn is_tried(&self, region: u64) -> bool {
        let lane = region % LANES * u64::from(LANE);
        self.word(region)
            .is_some_and(|word| word >> lane & T2 & 0xff != 0)
    }

    /// A region could not be claimed.
    pub(crate) fn tried(&self, region: u64) {
        self.change(Span::new(region, 1), |old, lanes| {
            old | (lanes & (T1 | (old & T1) << 1))
        });
    }

    /// A job has copied those of these regions that are claimed: what was neither written nor
    /// discarded meanwhile is in sync. What was written was copied in vain, or all with `in_vain`.
    pub(crate) fn copied(&self, span: Span, in_vain: bool) {
        let disturbed = if in_vain { D } else { 0 };
        self.change(span, |old, lanes| {
            let lanes = lanes & whole(old >> 1);
            let vain = lanes & (old | disturbed) & D;
            let twice = vain & (old >> 4 | old >> 5);
            (old & !(lanes & (C | T1 | T2))) | vain << 4 | twice << 5
        });
    }

    /// The job has not copied its regions: they are dirty as before, but those that were discarded
    /// meanwhile.
    pub(crate) fn put_back(&self, claim: Claim) {
        self.give_up(claim, 0);
    }

    /// The same, and they are not tried again before [`retry`](Self::retry) or a write to them,
    /// which may have come already.
    pub(crate) fn put_aside(&self, claim: Claim) {
        self.give_up(claim, A);
    }

    fn give_up(&self, claim: Claim, aside: u64) {
        let bits = D | if claim.fresh { S } else { 0 };
        self.change(claim.span, |old, lanes| {
            let discarded = whole(old >> 2 & !old);
            let again = lanes & !discarded;
            let aside = again & aside & !((old & D) << 3);
            (old | (again & bits) | aside) & !(lanes & C)
        });
    }
}

#[kunit_tests(clone_rs_claims)]
mod tests {
    use super::{
        super::tests::{claimed, copy_all, counts, take},
        *,
    };

    #[test]
    fn what_is_copied_in_vain_is_held_the_third_time() -> Result {
        let map = RegionMap::new(20)?;
        copy_all(&map);
        let all = Span::new(0, 20);
        map.dirty(all);
        for turn in 0..2 {
            assert!(!map.is_tried(4));
            let claim = take(&map, 0, 20, 20).ok_or(EINVAL)?;
            map.dirty(Span::new(4, 1));
            // A write to region 5 is still on its way when the job ends.
            map.copied(Span::new(5, 1), true);
            map.copied(claim.span, false);
            assert_eq!(counts(&map), (19, 0, 0, 1, 0));
            map.dirty(Span::new(5, 1));
            assert_eq!((map.is_tried(4), map.is_tried(5)), (turn > 0, turn > 0));
        }
        let claim = map.claim(4, 20, true).ok_or(EINVAL)?;
        assert_eq!(claimed(Some(claim)), Some((4, 6, false)));
        assert_eq!(counts(&map), (18, 0, 2, 2, 0));
        map.drained(claim);
        map.copied(claim.span, false);
        assert_eq!(counts(&map), (20, 0, 0, 0, 0));
        assert!(!map.is_tried(4));
        map.tried(7);
        map.tried(7);
        assert!(map.is_tried(7));
        Ok(())
    }

    #[test]
    fn claims_stay_within_their_bounds() -> Result {
        let map = RegionMap::new(40)?;
        assert_eq!(claimed(take(&map, 3, 40, 2)), Some((3, 5, true)));
        assert_eq!(claimed(take(&map, 2, 40, 9)), Some((2, 3, true)));
        assert_eq!(claimed(take(&map, 2, 40, 30)), Some((5, 35, true)));
        assert_eq!(claimed(take(&map, 2, 36, 30)), Some((35, 36, true)));
        assert_eq!(claimed(take(&map, 2, 36, 30)), None);
        assert_eq!(claimed(take(&map, 2, 100, 30)), Some((36, 40, true)));
        assert_eq!(counts(&map), (0, 0, 38, 2, 0));
        Ok(())
    }

    #[test]
    fn a_run_may_end_where_a_word_does() -> Result {
        let map = RegionMap::new(48)?;
        copy_all(&map);
        map.dirty(Span::new(10, 6));
        map.dirty(Span::new(17, 15));
        assert_eq!(claimed(take(&map, 0, 48, 48)), Some((10, 16, false)));
        assert_eq!(claimed(take(&map, 0, 48, 48)), Some((17, 32, false)));
        assert_eq!(claimed(take(&map, 0, 48, 48)), None);
        Ok(())
    }

    #[test]
    fn what_is_copied_and_not_written_is_in_sync() -> Result {
        let map = RegionMap::new(40)?;
        let claim = take(&map, 10, 40, 20).ok_or(EINVAL)?;
        // A write ends while the job runs; its regions stay dirty, but are not claimed twice.
        map.dirty(Span::new(8, 4));
        assert_eq!(claimed(take(&map, 10, 30, 20)), None);
        map.copied(claim.span, false);
        assert_eq!(counts(&map), (18, 0, 0, 22, 0));
        assert_eq!(claimed(take(&map, 10, 30, 20)), Some((10, 12, false)));
        Ok(())
    }

    #[test]
    fn a_run_is_all_fresh_or_not_at_all() -> Result {
        let map = RegionMap::new(20)?;
        copy_all(&map);
        assert!(map.is_clean());
        assert_eq!(counts(&map), (20, 0, 0, 0, 0));
        map.skip(Span::new(4, 2));
        map.dirty(Span::new(2, 6));
        assert_eq!(claimed(take(&map, 0, 20, 20)), Some((2, 4, false)));
        assert_eq!(claimed(take(&map, 0, 20, 20)), Some((4, 6, true)));
        assert_eq!(claimed(take(&map, 0, 20, 20)), Some((6, 8, false)));
        Ok(())
    }

    #[test]
    fn what_is_discarded_while_it_is_copied_is_skipped() -> Result {
        let map = RegionMap::new(20)?;
        let claim = take(&map, 0, 20, 10).ok_or(EINVAL)?;
        map.skip(Span::new(5, 10));
        assert_eq!(counts(&map), (0, 5, 10, 5, 0));
        map.copied(claim.span, false);
        assert_eq!(counts(&map), (5, 10, 0, 5, 0));
        Ok(())
    }

    #[test]
    fn what_is_discarded_while_it_can_not_be_read_is_skipped() -> Result {
        let map = RegionMap::new(20)?;
        for aside in [false, true] {
            let claim = take(&map, 0, 20, 20).ok_or(EINVAL)?;
            map.skip(Span::new(5, 3));
            if aside {
                map.put_aside(claim);
                assert_eq!(counts(&map), (0, 3, 0, 17, 17));
            } else {
                map.put_back(claim);
                assert_eq!(counts(&map), (0, 3, 0, 17, 0));
                map.dirty(Span::new(5, 3));
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_put_back_is_as_before() -> Result {
        let map = RegionMap::new(20)?;
        let claim = take(&map, 0, 20, 10).ok_or(EINVAL)?;
        map.put_back(claim);
        assert_eq!(counts(&map), (0, 0, 0, 20, 0));
        assert_eq!(claimed(take(&map, 0, 20, 20)), Some((0, 20, true)));
        Ok(())
    }

    #[test]
    fn a_claim_is_given_back_in_parts() -> Result {
        let map = RegionMap::new(20)?;
        let claim = take(&map, 4, 20, 8).ok_or(EINVAL)?;
        let (before, one, after) = claim.split_around(6);
        assert_eq!(claimed(before), Some((4, 6, true)));
        assert_eq!(claimed(Some(one)), Some((6, 7, true)));
        assert_eq!(claimed(after), Some((7, 12, true)));
        assert!(claim.split_around(4).0.is_none() && claim.split_around(11).2.is_none());
        map.put_aside(one);
        map.copied(before.ok_or(EINVAL)?.span, false);
        assert_eq!(counts(&map), (2, 0, 5, 13, 1));
        map.put_back(after.ok_or(EINVAL)?);
        assert_eq!(counts(&map), (2, 0, 0, 18, 1));
        Ok(())
    }

    #[test]
    fn what_was_written_meanwhile_is_not_put_aside() -> Result {
        let map = RegionMap::new(20)?;
        let claim = take(&map, 0, 20, 10).ok_or(EINVAL)?;
        map.dirty(Span::new(3, 1));
        map.put_aside(claim);
        assert_eq!(counts(&map), (0, 0, 0, 20, 9));
        assert_eq!(claimed(take(&map, 0, 10, 20)), Some((3, 4, true)));
        Ok(())
    }

    #[test]
    fn what_is_put_aside_waits_for_a_retry_or_a_write() -> Result {
        let map = RegionMap::new(20)?;
        let claim = take(&map, 0, 20, 10).ok_or(EINVAL)?;
        map.put_aside(claim);
        assert_eq!(counts(&map), (0, 0, 0, 20, 10));
        assert!(!map.has_only_aside());
        assert_eq!(claimed(take(&map, 0, 20, 20)), Some((10, 20, true)));
        map.dirty(Span::new(2, 1));
        assert_eq!(claimed(take(&map, 0, 20, 20)), Some((2, 3, true)));
        assert!(map.has_only_aside());
        map.retry();
        assert!(!map.has_only_aside());
        assert_eq!(counts(&map), (0, 0, 11, 9, 0));
        assert_eq!(claimed(take(&map, 3, 20, 20)), Some((3, 10, true)));
        Ok(())
    }
}
