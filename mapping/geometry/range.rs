// SPDX-License-Identifier: GPL-2.0

//! Runs of sectors, and of regions.

use kernel::prelude::*;

/// A run of sectors, counted from the target's start.
///
/// # Invariants
///
/// It is not empty, and ends within the target whose [`Geometry`](super::Geometry) made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Range {
    /// The first sector.
    pub(crate) fn start(self) -> u64 {
        self.start
    }

    /// The number of sectors, at least 1.
    pub(crate) fn len(self) -> u64 {
        self.len
    }

    /// The sector after the last one.
    pub(crate) fn end(self) -> u64 {
        self.start + self.len
    }

    /// Whether both have a sector in common.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Cuts off the first `sectors` sectors, and returns them and the rest, if there is one.
    pub(crate) fn split(self, sectors: u64) -> (Self, Option<Self>) {
        if sectors == 0 || sectors >= self.len {
            return (self, None);
        }
        // INVARIANT: Two parts, neither of them empty, of a range within the target.
        (
            Self {
                start: self.start,
                len: sectors,
            },
            Some(Self {
                start: self.start + sectors,
                len: self.len - sectors,
            }),
        )
    }

    /// This and what follows right after it.
    pub(crate) fn joined(self, next: Option<Self>) -> Self {
        // INVARIANT: Both end within the target.
        Self {
            start: self.start,
            len: self.len + next.map_or(0, Self::len),
        }
    }
}

/// A run of regions.
///
/// # Invariants
///
/// It is not empty, and ends within the target whose [`Geometry`](super::Geometry) made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(super) first: u64,
    pub(super) count: u64,
}

impl Span {
    /// `count` regions from `first` on; the caller sees to the invariants.
    pub(in crate::mapping) const fn new(first: u64, count: u64) -> Self {
        Self { first, count }
    }

    /// The first region.
    pub(crate) fn first(self) -> u64 {
        self.first
    }

    /// The region after the last one.
    pub(crate) fn end(self) -> u64 {
        self.first + self.count
    }

    /// The regions that both have.
    pub(crate) fn common(self, other: Self) -> Option<Self> {
        let first = self.first.max(other.first);
        let end = self.end().min(other.end());
        // INVARIANT: A part of both, and not empty.
        (first < end).then(|| Self {
            first,
            count: end - first,
        })
    }
}

#[kunit_tests(clone_rs_ranges)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_regions_in_common() {
        let span = Span::new(10, 5);
        assert_eq!(span.common(Span::new(0, 10)), None);
        assert_eq!(span.common(Span::new(15, 1)), None);
        assert_eq!(span.common(Span::new(0, 11)), Some(Span::new(10, 1)));
        assert_eq!(span.common(Span::new(14, 9)), Some(Span::new(14, 1)));
        assert_eq!(span.common(Span::new(0, 99)), Some(span));
    }

    #[test]
    fn split_loses_nothing() {
        let range = Range { start: 10, len: 20 };
        let (head, tail) = range.split(5);
        assert_eq!((head.start(), head.len()), (10, 5));
        assert_eq!(tail.map(|tail| (tail.start(), tail.len())), Some((15, 15)));
        assert_eq!(range.split(20), (range, None));
        assert_eq!(range.split(21), (range, None));
        assert_eq!(range.split(0), (range, None));
    }
}
