// SPDX-License-Identifier: GPL-2.0

//! What a verify does to the regions that it looks at.
//!
//! V stands for "in sync, and nothing was sent there since": it is set where nothing is on its way,
//! and cleared before a write, a discard or a copy begins.

use super::{any, lane, mask, next_word, RegionMap, D, V};
use crate::mapping::geometry::Span;
use kernel::prelude::*;

/// What became of a region since it was watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// It is in sync, and nothing was sent there.
    Undisturbed,
    /// It is in sync, but something was.
    Disturbed,
    /// It is not in sync.
    Changed,
}

impl RegionMap {
    /// The first regions from `from` up to `end` that are in sync, at most `most` adjacent ones.
    pub(crate) fn first_in_sync(&self, from: u64, end: u64, most: u64) -> Option<Span> {
        let end = end.min(self.regions);
        let mut first = from;
        loop {
            if first >= end {
                return None;
            }
            let in_sync = !any(self.word(first)?) & D & mask(first, end);
            if in_sync != 0 {
                first = lane(first, in_sync);
                break;
            }
            first = next_word(first);
        }
        let end = end.min(first.saturating_add(most));
        let mut at = first;
        while at < end {
            let others = any(self.word(at)?) & mask(at, end);
            if others != 0 {
                at = lane(at, others);
                break;
            }
            at = next_word(at);
        }
        Some(Span::new(first, at.min(end) - first))
    }

    /// Regions are to be looked at, to which nothing is on its way: those in sync are watched from
    /// here on.
    pub(crate) fn watch(&self, span: Span) {
        self.change(span, |old, lanes| {
            let in_sync = !(any(old) << 6) & V;
            (old & !(lanes & V)) | (lanes & in_sync)
        });
    }

    /// Something is about to be sent to these regions.
    pub(crate) fn disturb(&self, span: Span) {
        self.change(span, |old, lanes| old & !(lanes & V));
    }

    /// What became of a region since then.
    pub(crate) fn watched(&self, region: u64) -> Watched {
        let Some(word) = self.word(region) else {
            return Watched::Changed;
        };
        let lanes = mask(region, region + 1);
        if any(word) & lanes != 0 {
            Watched::Changed
        } else if word & lanes & V != 0 {
            Watched::Undisturbed
        } else {
            Watched::Disturbed
        }
    }
}

#[kunit_tests(clone_rs_watch)]
mod tests {
    use super::{
        super::tests::{copy_all, take},
        *,
    };

    #[test]
    fn regions_in_sync_are_found() -> Result {
        let map = RegionMap::new(40)?;
        let found = |from, most| {
            map.first_in_sync(from, 40, most)
                .map(|span| (span.first(), span.end()))
        };
        assert_eq!(found(0, 40), None);
        copy_all(&map);
        assert_eq!(found(0, 40), Some((0, 40)));
        assert_eq!(found(3, 9), Some((3, 12)));
        assert_eq!(found(39, 9), Some((39, 40)));
        assert_eq!(found(40, 9), None);
        map.dirty(Span::new(0, 9));
        map.skip(Span::new(20, 12));
        let claim = {
            map.dirty(Span::new(35, 1));
            map.claim(35, 36, false).ok_or(EINVAL)?
        };
        assert_eq!(found(0, 40), Some((9, 20)));
        assert_eq!(found(20, 40), Some((32, 35)));
        assert_eq!(found(35, 40), Some((36, 40)));
        map.copied(claim.span, false);
        assert_eq!(found(20, 40), Some((32, 40)));
        Ok(())
    }

    #[test]
    fn what_is_sent_disturbs() -> Result {
        let map = RegionMap::new(20)?;
        copy_all(&map);
        map.dirty(Span::new(1, 1));
        map.skip(Span::new(2, 1));
        map.watch(Span::new(0, 10));
        assert_eq!(map.watched(0), Watched::Undisturbed);
        assert_eq!(map.watched(1), Watched::Changed);
        assert_eq!(map.watched(2), Watched::Changed);
        assert_eq!(map.watched(10), Watched::Disturbed);
        map.disturb(Span::new(4, 3));
        for (region, watched) in [
            (3, Watched::Undisturbed),
            (4, Watched::Disturbed),
            (6, Watched::Disturbed),
            (7, Watched::Undisturbed),
        ] {
            assert_eq!(map.watched(region), watched);
        }
        map.watch(Span::new(4, 1));
        assert_eq!(map.watched(4), Watched::Undisturbed);
        assert_eq!(map.watched(24), Watched::Changed);
        Ok(())
    }

    #[test]
    fn what_was_copied_since_is_disturbed() -> Result {
        for holds in [false, true] {
            let map = RegionMap::new(20)?;
            copy_all(&map);
            map.watch(Span::new(0, 20));
            map.dirty(Span::new(3, 1));
            assert_eq!(map.watched(3), Watched::Changed);
            map.tried(3);
            map.tried(3);
            let claim = if holds {
                let claim = map.claim(3, 4, true).ok_or(EINVAL)?;
                map.drained(claim);
                claim
            } else {
                take(&map, 0, 20, 1).ok_or(EINVAL)?
            };
            assert_eq!(map.watched(3), Watched::Changed);
            map.copied(claim.span, false);
            assert_eq!(map.watched(3), Watched::Disturbed);
            assert_eq!(map.watched(4), Watched::Undisturbed);
        }
        Ok(())
    }
}
