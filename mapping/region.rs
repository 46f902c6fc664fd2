// SPDX-License-Identifier: GPL-2.0

//! The region map: what is known of each region, four bits a region.
//!
//! | bits | meaning |
//! |---|---|
//! | none | in sync |
//! | D | dirty: the clone's region may differ |
//! | D and S | dirty, and never copied since its content was last unneeded |
//! | S | skipped: nobody needs the content |
//! | C | a job copies it; with D it was written meanwhile, with S discarded |
//! | A, with D and without C | put aside: its copy failed, it is not tried again by itself |
//!
//! Each change of a region is one atomic step, so that of a write's end and a discard the later one
//! wins, and D is never lost. All are full barriers: what follows a step (a look at
//! [`Phase`](super::phase::Phase) or at [`Discards`](super::discards::Discards)) happens after it.

use super::geometry::Span;
use crate::abstractions::mm;
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Full, Relaxed},
};

/// Bits of a region.
const LANE: u32 = 4;
/// Regions of a word.
const LANES: u64 = (u64::BITS / LANE) as u64;

/// The D bits of a word's regions. The others are a shift away.
const D: u64 = 0x1111_1111_1111_1111;
const C: u64 = D << 1;
const S: u64 = D << 2;
const A: u64 = D << 3;

/// How many regions are what.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct RegionCounts {
    /// In sync.
    pub(crate) in_sync: u64,
    /// Skipped, and not being copied.
    pub(crate) skipped: u64,
    /// Being copied.
    pub(crate) copying: u64,
    /// Dirty, also where they are being copied.
    pub(crate) dirty: u64,
    /// Of these, those put aside.
    pub(crate) aside: u64,
}

/// Regions that a job copies, and nobody else until it gives them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) span: Span,
    /// Whether none of them was copied before.
    pub(crate) fresh: bool,
}

/// The map. Locking: none; any number of CPUs may call anything at once, in any context.
pub(crate) struct RegionMap {
    words: KVVec<Atomic<u64>>,
    regions: u64,
    not_in_sync: Atomic<i64>,
    skipped: Atomic<i64>,
    copying: Atomic<i64>,
    dirty: Atomic<i64>,
    aside: Atomic<i64>,
}

impl RegionMap {
    /// The memory that the map of so many regions takes, in bytes.
    pub(crate) fn bytes(regions: u64) -> u64 {
        regions.div_ceil(LANES) * u64::from(u64::BITS / 8)
    }

    /// Allocates the map of so many regions, all of them dirty and never copied.
    ///
    /// Context: process, may sleep. Errors: `ENOMEM`; the OOM killer is never called.
    pub(crate) fn new(regions: u64) -> Result<Self> {
        let count = usize::try_from(regions.div_ceil(LANES)).map_err(|_| ENOMEM)?;
        let mut words = mm::large_vec(count)?;
        for first in (0..regions).step_by(LANES as usize) {
            let word = Atomic::new((D | S) & mask(first, regions));
            words.push_within_capacity(word).map_err(|_| ENOMEM)?;
        }
        let all = regions as i64;
        Ok(Self {
            words,
            regions,
            not_in_sync: Atomic::new(all),
            skipped: Atomic::new(0),
            copying: Atomic::new(0),
            dirty: Atomic::new(all),
            aside: Atomic::new(0),
        })
    }

    /// How many regions are what. While regions change the counts lag behind them, but a region
    /// that a write has dirtied is counted before the write is acknowledged.
    pub(crate) fn counts(&self) -> RegionCounts {
        // A count may be below 0 for a moment: a region's next change may be counted first.
        let of = |count: &Atomic<i64>| u64::try_from(count.load(Relaxed)).unwrap_or(0);
        RegionCounts {
            in_sync: self.regions.saturating_sub(of(&self.not_in_sync)),
            skipped: of(&self.skipped),
            copying: of(&self.copying),
            dirty: of(&self.dirty),
            aside: of(&self.aside),
        }
    }

    /// Whether every region is in sync or skipped, and none is being copied: looks at all of them.
    pub(crate) fn is_clean(&self) -> bool {
        self.words
            .iter()
            .all(|word| word.load(Relaxed) & (D | C) == 0)
    }

    /// Whether some regions are put aside and no other one may be claimed: looks at all of them, as
    /// the counts lag behind.
    pub(crate) fn has_only_aside(&self) -> bool {
        let mut aside = false;
        for word in self.words.iter() {
            let word = word.load(Relaxed);
            if free(word) != 0 {
                return false;
            }
            aside |= word & A != 0;
        }
        aside
    }

    /// Makes regions dirty: a write to them has ended, or they are to be copied again.
    #[inline]
    pub(crate) fn dirty(&self, span: Span) {
        self.change(span, |old, lanes| (old | (lanes & D)) & !(lanes & A));
    }

    /// Makes those regions dirty that count as in sync, or will when their job ends: what the clone
    /// has of them may be lost. Those that nobody needs stay skipped.
    pub(crate) fn suspect(&self, span: Span) {
        self.change(span, |old, lanes| old | (lanes & D & !(old >> 2)));
    }

    /// Nobody needs the content of these regions any more. A job may be copying them: then they are
    /// skipped when it ends.
    pub(crate) fn skip(&self, span: Span) {
        self.change(span, |old, lanes| (old | (lanes & S)) & !(lanes & (D | A)));
    }

    /// Claims the first dirty regions from `from` up to `end` that no job has and that are not put
    /// aside: at most `most` adjacent ones, all fresh or none. They are not dirty from here on, so
    /// whoever reads them afterwards sees each write that made them so.
    ///
    /// Jobs claim one after another (see `rmw::scheduler`).
    pub(crate) fn claim(&self, from: u64, end: u64, most: u64) -> Option<Claim> {
        loop {
            let (first, fresh) = self.find(from, end.min(self.regions))?;
            let after = self.extend(first, end.min(first.saturating_add(most)), fresh);
            // It may have been discarded since it was found.
            if after > first {
                return Some(Claim {
                    span: Span::new(first, after - first),
                    fresh,
                });
            }
        }
    }

    /// The first region that may be claimed, and whether it is fresh.
    fn find(&self, from: u64, end: u64) -> Option<(u64, bool)> {
        let mut at = from;
        while at < end {
            let old = self.words.get((at / LANES) as usize)?.load(Relaxed);
            let free = free(old) & mask(at, end);
            if free != 0 {
                let bit = free.trailing_zeros();
                let region = at - at % LANES + u64::from(bit / LANE);
                return Some((region, old & S & (1 << bit << 2) != 0));
            }
            at = (at / LANES + 1) * LANES;
        }
        None
    }

    /// Claims regions from `first` up to `end`, as far as all may be claimed and are as fresh;
    /// returns where that ends.
    fn extend(&self, first: u64, end: u64, fresh: bool) -> u64 {
        let mut at = first;
        while at < end {
            let Some(word) = self.words.get((at / LANES) as usize) else {
                break;
            };
            let old = word.load(Relaxed);
            let alike = if fresh { old >> 2 } else { !(old >> 2) };
            let adjacent = whole(free(old) & alike) >> (at % LANES * u64::from(LANE));
            let count = u64::from(adjacent.trailing_ones() / LANE).min(end - at);
            if count == 0 {
                break;
            }
            let taken = mask(at, at + count);
            let new = (old | (taken & C)) & !(taken & (D | S));
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
        at
    }

    /// The job has copied its regions: what was neither written nor discarded meanwhile is in sync.
    pub(crate) fn copied(&self, claim: Claim) {
        self.change(claim.span, |old, lanes| old & !(lanes & C));
    }

    /// The job has not copied its regions: they are dirty as before.
    pub(crate) fn put_back(&self, claim: Claim) {
        self.give_up(claim, 0);
    }

    /// The same, and they are not tried again before [`retry`](Self::retry) or a write to them.
    pub(crate) fn put_aside(&self, claim: Claim) {
        self.give_up(claim, A);
    }

    fn give_up(&self, claim: Claim, more: u64) {
        let bits = D | more | if claim.fresh { S } else { 0 };
        self.change(claim.span, |old, lanes| {
            (old | (lanes & bits)) & !(lanes & C)
        });
    }

    /// Lets what was put aside be tried again.
    pub(crate) fn retry(&self) {
        if self.aside.load(Relaxed) != 0 {
            self.change(Span::new(0, self.regions), |old, lanes| old & !(lanes & A));
        }
    }

    /// Takes over the state of a map that nobody uses any more, as far as both go; `partial` is set
    /// where the other's last region is only a part of ours. Nobody uses this one yet.
    pub(crate) fn adopt(&self, other: &Self, partial: bool) {
        let common = self.regions.min(other.regions) - u64::from(partial);
        for first in (0..common).step_by(LANES as usize) {
            let index = (first / LANES) as usize;
            if let (Some(ours), Some(theirs)) = (self.words.get(index), other.words.get(index)) {
                let lanes = mask(first, common);
                let old = ours.load(Relaxed);
                let new = (old & !lanes) | (theirs.load(Relaxed) & lanes);
                ours.store(new, Relaxed);
                self.count(old, new);
            }
        }
    }

    /// Changes regions, a word in one step. `new` gets the old word and the bits that it may
    /// change.
    #[inline]
    fn change(&self, span: Span, new: impl Fn(u64, u64) -> u64) {
        let mut at = span.first();
        while at < span.end() {
            let lanes = mask(at, span.end());
            if let Some(word) = self.words.get((at / LANES) as usize) {
                let mut old = word.load(Relaxed);
                // Also where nothing changes: it is a full barrier, a look alone is not.
                while let Err(now) = word.cmpxchg(old, new(old, lanes), Full) {
                    old = now;
                }
                self.count(old, new(old, lanes));
            }
            at = (at / LANES + 1) * LANES;
        }
    }

    /// Counts what a step has changed.
    #[inline]
    fn count(&self, old: u64, new: u64) {
        if old == new {
            return;
        }
        let difference =
            |of: fn(u64) -> u64| i64::from(of(new).count_ones()) - i64::from(of(old).count_ones());
        for (count, difference) in [
            (&self.not_in_sync, difference(any)),
            (
                &self.skipped,
                difference(|word| word >> 2 & D & !word & !(word >> 1)),
            ),
            (&self.copying, difference(|word| word & C)),
            (&self.dirty, difference(|word| word & D)),
            (&self.aside, difference(|word| word & A)),
        ] {
            if difference != 0 {
                count.add(difference, Relaxed);
            }
        }
    }
}

/// The lowest bit of each region that has any bit.
const fn any(word: u64) -> u64 {
    (word | word >> 1 | word >> 2 | word >> 3) & D
}

/// The lowest bit of each region that may be claimed.
const fn free(word: u64) -> u64 {
    word & !(word >> 1) & !(word >> 3) & D
}

/// All bits of the regions whose lowest bit is set.
const fn whole(lowest: u64) -> u64 {
    (lowest & D) * 0xf
}

/// All bits of the regions from `first` up to `end`, of which there is at least one, as far as they
/// are in the word of `first`.
#[inline]
fn mask(first: u64, end: u64) -> u64 {
    let lane = first % LANES;
    let count = (end - first).min(LANES - lane);
    (u64::MAX >> (u64::BITS - count as u32 * LANE)) << (lane * u64::from(LANE))
}

#[kunit_tests(clone_rs_region)]
mod tests {
    use super::*;

    /// In sync, skipped, copying, dirty, put aside.
    fn counts(map: &RegionMap) -> (u64, u64, u64, u64, u64) {
        let RegionCounts {
            in_sync,
            skipped,
            copying,
            dirty,
            aside,
        } = map.counts();
        (in_sync, skipped, copying, dirty, aside)
    }

    fn claimed(claim: Option<Claim>) -> Option<(u64, u64, bool)> {
        claim.map(|claim| (claim.span.first(), claim.span.end(), claim.fresh))
    }

    /// Claims and copies all that is dirty.
    fn copy_all(map: &RegionMap) {
        while let Some(claim) = map.claim(0, map.regions, u64::MAX) {
            map.copied(claim);
        }
    }

    #[test]
    fn at_the_start_all_is_dirty_and_fresh() -> Result {
        for regions in [1, 15, 16, 17, 32, 100] {
            let map = RegionMap::new(regions)?;
            assert_eq!(counts(&map), (0, 0, 0, regions, 0));
            assert_eq!(
                claimed(map.claim(0, regions, u64::MAX)),
                Some((0, regions, true))
            );
            assert_eq!(counts(&map), (0, 0, regions, 0, 0));
            assert!(map.claim(0, regions, u64::MAX).is_none());
            assert!(!map.is_clean());
        }
        Ok(())
    }

    #[test]
    fn claims_stay_within_their_bounds() -> Result {
        let map = RegionMap::new(40)?;
        assert_eq!(claimed(map.claim(3, 40, 2)), Some((3, 5, true)));
        assert_eq!(claimed(map.claim(2, 40, 9)), Some((2, 3, true)));
        assert_eq!(claimed(map.claim(2, 40, 30)), Some((5, 35, true)));
        assert_eq!(claimed(map.claim(2, 36, 30)), Some((35, 36, true)));
        assert_eq!(claimed(map.claim(2, 36, 30)), None);
        assert_eq!(claimed(map.claim(2, 100, 30)), Some((36, 40, true)));
        assert_eq!(counts(&map), (0, 0, 38, 2, 0));
        Ok(())
    }

    #[test]
    fn a_run_may_end_where_a_word_does() -> Result {
        let map = RegionMap::new(48)?;
        copy_all(&map);
        map.dirty(Span::new(10, 6));
        map.dirty(Span::new(17, 15));
        assert_eq!(claimed(map.claim(0, 48, 48)), Some((10, 16, false)));
        assert_eq!(claimed(map.claim(0, 48, 48)), Some((17, 32, false)));
        assert_eq!(claimed(map.claim(0, 48, 48)), None);
        Ok(())
    }

    #[test]
    fn what_is_copied_and_not_written_is_in_sync() -> Result {
        let map = RegionMap::new(40)?;
        let claim = map.claim(10, 40, 20).ok_or(EINVAL)?;
        // A write ends while the job runs; its regions stay dirty, but are not claimed twice.
        map.dirty(Span::new(8, 4));
        assert_eq!(claimed(map.claim(10, 30, 20)), None);
        map.copied(claim);
        assert_eq!(counts(&map), (18, 0, 0, 22, 0));
        assert_eq!(claimed(map.claim(10, 30, 20)), Some((10, 12, false)));
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
        assert_eq!(claimed(map.claim(0, 20, 20)), Some((2, 4, false)));
        assert_eq!(claimed(map.claim(0, 20, 20)), Some((4, 6, true)));
        assert_eq!(claimed(map.claim(0, 20, 20)), Some((6, 8, false)));
        Ok(())
    }

    #[test]
    fn of_a_discard_and_a_write_the_later_one_wins() -> Result {
        let map = RegionMap::new(20)?;
        map.skip(Span::new(0, 20));
        assert_eq!(counts(&map), (0, 20, 0, 0, 0));
        assert!(map.is_clean());
        map.dirty(Span::new(7, 1));
        assert_eq!(counts(&map), (0, 19, 0, 1, 0));
        map.skip(Span::new(7, 1));
        assert_eq!(counts(&map), (0, 20, 0, 0, 0));
        assert!(map.claim(0, 20, 20).is_none());
        Ok(())
    }

    #[test]
    fn what_is_discarded_while_it_is_copied_is_skipped() -> Result {
        let map = RegionMap::new(20)?;
        let claim = map.claim(0, 20, 10).ok_or(EINVAL)?;
        map.skip(Span::new(5, 10));
        assert_eq!(counts(&map), (0, 5, 10, 5, 0));
        map.copied(claim);
        assert_eq!(counts(&map), (5, 10, 0, 5, 0));
        Ok(())
    }

    #[test]
    fn what_is_put_back_is_as_before() -> Result {
        let map = RegionMap::new(20)?;
        let claim = map.claim(0, 20, 10).ok_or(EINVAL)?;
        map.put_back(claim);
        assert_eq!(counts(&map), (0, 0, 0, 20, 0));
        assert_eq!(claimed(map.claim(0, 20, 20)), Some((0, 20, true)));
        Ok(())
    }

    #[test]
    fn what_is_put_aside_waits_for_a_retry_or_a_write() -> Result {
        let map = RegionMap::new(20)?;
        let claim = map.claim(0, 20, 10).ok_or(EINVAL)?;
        map.put_aside(claim);
        assert_eq!(counts(&map), (0, 0, 0, 20, 10));
        assert!(!map.has_only_aside());
        assert_eq!(claimed(map.claim(0, 20, 20)), Some((10, 20, true)));
        map.dirty(Span::new(2, 1));
        assert_eq!(claimed(map.claim(0, 20, 20)), Some((2, 3, true)));
        assert!(map.has_only_aside());
        map.retry();
        assert!(!map.has_only_aside());
        assert_eq!(counts(&map), (0, 0, 11, 9, 0));
        assert_eq!(claimed(map.claim(3, 20, 20)), Some((3, 10, true)));
        Ok(())
    }

    #[test]
    fn only_what_is_put_aside_may_be_left() -> Result {
        let map = RegionMap::new(40)?;
        assert!(!map.has_only_aside());
        let claim = map.claim(0, 20, 10).ok_or(EINVAL)?;
        map.put_aside(claim);
        assert!(!map.has_only_aside());
        map.skip(Span::new(10, 30));
        assert!(map.has_only_aside());
        map.dirty(Span::new(39, 1));
        assert!(!map.has_only_aside());
        map.skip(Span::new(0, 40));
        // As it is seen before the last step is counted.
        map.dirty.add(1, Relaxed);
        assert_eq!(map.counts().dirty, 1);
        assert!(!map.has_only_aside());
        Ok(())
    }

    #[test]
    fn only_what_counts_as_in_sync_is_suspected() -> Result {
        let map = RegionMap::new(20)?;
        copy_all(&map);
        map.skip(Span::new(0, 5));
        map.dirty(Span::new(10, 1));
        let claim = map.claim(0, 20, 20).ok_or(EINVAL)?;
        map.suspect(Span::new(0, 12));
        assert_eq!(counts(&map), (8, 5, 1, 7, 0));
        map.copied(claim);
        assert_eq!(counts(&map), (8, 5, 0, 7, 0));
        Ok(())
    }

    #[test]
    fn state_is_taken_over_as_far_as_it_goes() -> Result {
        let old = RegionMap::new(20)?;
        copy_all(&old);
        old.dirty(Span::new(3, 2));
        old.skip(Span::new(18, 2));
        for (regions, partial, expected) in [
            (20, false, (16, 2, 0, 2, 0)),
            (30, false, (16, 2, 0, 12, 0)),
            (30, true, (16, 1, 0, 13, 0)),
            (10, false, (8, 0, 0, 2, 0)),
        ] {
            let map = RegionMap::new(regions)?;
            map.adopt(&old, partial);
            assert_eq!(counts(&map), expected);
        }
        Ok(())
    }
}
