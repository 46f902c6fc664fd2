// SPDX-License-Identifier: GPL-2.0

//! The region map: what is known of each region, a byte a region.
//!
//! | bits | meaning |
//! |---|---|
//! | none of D, C, S | in sync |
//! | D | dirty: the clone's region may differ |
//! | D and S | dirty, and never copied since its content was last unneeded |
//! | S | skipped: nobody needs the content; what is written there in `mirror` is on both devices |
//! | C | a job copies it; with D it was written meanwhile, with S discarded |
//! | A, with D and without C | put aside: its copy failed, it is not tried again by itself |
//! | T1, T2 | it was copied or claimed in vain once, twice or more, since it was last in sync |
//! | V, where in sync | a verify looks at it, and nothing was sent there since |
//!
//! Each change of a region is one atomic step, so that of a write's end and a discard the later one
//! wins, and D is never lost. All are full barriers: what follows a step (a look at
//! [`Phase`](super::phase::Phase)) happens after it.

mod claims;
mod watch;

use super::geometry::Span;
use crate::abstractions::mm;
pub(crate) use claims::Claim;
use kernel::{
    prelude::*,
    sync::atomic::{Acquire, Atomic, Full, Relaxed},
};
pub(crate) use watch::Watched;

/// Bits of a region.
const LANE: u32 = 8;
/// Regions of a word.
const LANES: u64 = (u64::BITS / LANE) as u64;

/// The D bits of a word's regions. The others are a shift away.
const D: u64 = 0x0101_0101_0101_0101;
const C: u64 = D << 1;
const S: u64 = D << 2;
const A: u64 = D << 3;
const T1: u64 = D << 4;
const T2: u64 = D << 5;
const V: u64 = D << 6;

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

/// What a run of regions is for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Both devices hold the same, or nobody needs it: so shall it stay.
    InSync,
    /// Dirty, or being copied.
    Behind,
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
        if !self.is_dirty_already(span) {
            self.set_dirty(span);
        }
    }

    #[inline(never)]
    fn set_dirty(&self, span: Span) {
        self.change(span, |old, lanes| (old | (lanes & D)) & !(lanes & A));
    }

    /// Whether it is one region, which is dirty: most writes find it so, where much is written. It
    /// is found out in a step that changes nothing, but is one like all others.
    #[inline]
    fn is_dirty_already(&self, span: Span) -> bool {
        let region = span.first();
        let Some(word) = self.words.get((region / LANES) as usize) else {
            return false;
        };
        let lane = word.fetch_add(0, Full) >> (region % LANES * u64::from(LANE));
        span.end() - region == 1 && lane & (D | A) & 0xff == D & 0xff
    }

    /// Makes those regions dirty that count as in sync, or will when their job ends: what the clone
    /// has of them may be lost. Those that nobody needs stay skipped, but where something may have
    /// been written there on both devices.
    pub(crate) fn suspect(&self, span: Span, skipped_too: bool) {
        let kept = if skipped_too { 0 } else { D };
        self.change(span, |old, lanes| old | (lanes & D & !(old >> 2 & kept)));
    }

    /// Nobody needs the content of these regions any more. A job may be copying them: then they are
    /// skipped when it ends.
    pub(crate) fn skip(&self, span: Span) {
        self.change(span, |old, lanes| (old | (lanes & S)) & !(lanes & (D | A)));
    }

    /// What the regions of a span are for a write, from the first one on, and where that ends,
    /// which is after that one.
    ///
    /// A region is given back in a step that is a full barrier, after its job's writes have ended.
    pub(crate) fn kind(&self, span: Span) -> (Kind, u64) {
        let behind = |at: u64| {
            let word = self.words.get((at / LANES) as usize);
            let word = word.map_or(D, |word| word.load(Acquire));
            (word | word >> 1) & D
        };
        let mut at = span.first();
        // Looked at once: it may change at any moment.
        let mut found = behind(at);
        let (kind, alike) = if found >> (at % LANES * u64::from(LANE)) & D & 0xff != 0 {
            (Kind::Behind, D)
        } else {
            (Kind::InSync, 0)
        };
        loop {
            let other = (found ^ alike) & mask(at, span.end());
            if other != 0 {
                let end = at - at % LANES + u64::from(other.trailing_zeros() / LANE);
                return (kind, end);
            }
            at = (at / LANES + 1) * LANES;
            if at >= span.end() {
                return (kind, span.end());
            }
            found = behind(at);
        }
    }

    /// Whether all regions of a span are in sync, and their content is needed.
    pub(crate) fn are_in_sync(&self, span: Span) -> bool {
        (span.first()..span.end()).all(|region| {
            let lane = self
                .words
                .get((region / LANES) as usize)
                .map(|word| word.load(Acquire));
            lane.is_some_and(|word| {
                word >> (region % LANES * u64::from(LANE)) & (D | C | S) & 0xff == 0
            })
        })
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

    fn word(&self, region: u64) -> Option<u64> {
        Some(self.words.get((region / LANES) as usize)?.load(Relaxed))
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

/// The lowest bit of each region that is not in sync.
const fn any(word: u64) -> u64 {
    (word | word >> 1 | word >> 2) & D
}

/// The lowest bit of each region that may be claimed.
const fn free(word: u64) -> u64 {
    word & !(word >> 1) & !(word >> 3) & D
}

/// All bits of the regions whose lowest bit is set.
const fn whole(lowest: u64) -> u64 {
    (lowest & D) * 0xff
}

/// The region of the lowest of these bits, in the word of `region`.
fn lane(region: u64, bits: u64) -> u64 {
    region - region % LANES + u64::from(bits.trailing_zeros() / LANE)
}

/// The first region of the next word.
fn next_word(region: u64) -> u64 {
    (region / LANES + 1) * LANES
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
    pub(super) fn counts(map: &RegionMap) -> (u64, u64, u64, u64, u64) {
        let RegionCounts {
            in_sync,
            skipped,
            copying,
            dirty,
            aside,
        } = map.counts();
        (in_sync, skipped, copying, dirty, aside)
    }

    /// The first claim of at most `most` regions.
    pub(super) fn take(map: &RegionMap, from: u64, end: u64, most: u64) -> Option<Claim> {
        let first = map.first_claimable(from, end)?;
        map.claim(first, end.min(first.saturating_add(most)), false)
    }

    pub(super) fn claimed(claim: Option<Claim>) -> Option<(u64, u64, bool)> {
        claim.map(|claim| (claim.span.first(), claim.span.end(), claim.fresh))
    }

    /// Claims and copies all that is dirty.
    pub(super) fn copy_all(map: &RegionMap) {
        while let Some(claim) = take(map, 0, map.regions, u64::MAX) {
            map.copied(claim.span, false);
        }
    }

    #[test]
    fn a_run_of_a_kind_ends_where_another_begins() -> Result {
        let map = RegionMap::new(40)?;
        let kind = |first, count| map.kind(Span::new(first, count));
        assert_eq!(kind(0, 40), (Kind::Behind, 40));
        let claim = take(&map, 3, 40, 20).ok_or(EINVAL)?;
        assert_eq!(kind(0, 40), (Kind::Behind, 40));
        map.copied(claim.span, false);
        assert_eq!(kind(0, 40), (Kind::Behind, 3));
        assert_eq!(kind(3, 37), (Kind::InSync, 23));
        assert_eq!(kind(22, 1), (Kind::InSync, 23));
        assert_eq!(kind(23, 17), (Kind::Behind, 40));
        // What nobody needs is kept the same on both devices, too.
        map.skip(Span::new(0, 3));
        assert_eq!(kind(0, 10), (Kind::InSync, 10));
        assert!(!map.are_in_sync(Span::new(2, 2)));
        assert!(map.are_in_sync(Span::new(3, 20)));
        assert!(!map.are_in_sync(Span::new(3, 21)));
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
        assert!(take(&map, 0, 20, 20).is_none());
        Ok(())
    }

    #[test]
    fn only_what_counts_as_in_sync_is_suspected() -> Result {
        let map = RegionMap::new(20)?;
        copy_all(&map);
        map.skip(Span::new(0, 5));
        map.dirty(Span::new(10, 1));
        let claim = take(&map, 0, 20, 20).ok_or(EINVAL)?;
        map.suspect(Span::new(0, 12), false);
        assert_eq!(counts(&map), (8, 5, 1, 7, 0));
        map.copied(claim.span, false);
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

    #[test]
    fn at_the_start_all_is_dirty_and_fresh() -> Result {
        for regions in [1, 15, 16, 17, 32, 100] {
            let map = RegionMap::new(regions)?;
            assert_eq!(counts(&map), (0, 0, 0, regions, 0));
            assert_eq!(
                claimed(take(&map, 0, regions, u64::MAX)),
                Some((0, regions, true))
            );
            assert_eq!(counts(&map), (0, 0, regions, 0, 0));
            assert!(take(&map, 0, regions, u64::MAX).is_none());
            assert!(!map.is_clean());
        }
        Ok(())
    }

    #[test]
    fn only_what_is_put_aside_may_be_left() -> Result {
        let map = RegionMap::new(40)?;
        assert!(!map.has_only_aside());
        let claim = take(&map, 0, 20, 10).ok_or(EINVAL)?;
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
}
