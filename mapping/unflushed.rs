// SPDX-License-Identifier: GPL-2.0

//! What was written on the clone since its cache was flushed.
//!
//! Kept coarsely, for chunks of the target, in two generations: what a flush in flight secures, and
//! what was written since it was sent. A write is marked when it has ended, so whatever is marked
//! before a flush is sent was on the clone by then.

use super::geometry::{Geometry, Range, Span};
use kernel::prelude::*;

/// The most chunks.
const CHUNKS: u64 = 4096;

/// The marks. Locking: the owner's.
pub(super) struct Unflushed {
    geometry: Geometry,
    /// Regions of a chunk are 1 << shift.
    shift: u32,
    current: KVec<bool>,
    sent: KVec<bool>,
    /// Written since a flush was sent.
    sectors: u64,
}

impl Unflushed {
    /// Allocates the marks; none is set. Errors: `ENOMEM`.
    pub(super) fn new(geometry: Geometry) -> Result<Self> {
        let chunk = geometry.regions().div_ceil(CHUNKS).next_power_of_two();
        let chunks = geometry.regions().div_ceil(chunk) as usize;
        Ok(Self {
            geometry,
            shift: chunk.trailing_zeros(),
            current: KVec::from_elem(false, chunks, GFP_KERNEL)?,
            sent: KVec::from_elem(false, chunks, GFP_KERNEL)?,
            sectors: 0,
        })
    }

    /// What stands for marks that were taken away; allocates nothing.
    pub(super) fn none(geometry: Geometry) -> Self {
        Self {
            geometry,
            shift: 0,
            current: KVec::new(),
            sent: KVec::new(),
            sectors: 0,
        }
    }

    /// A range was written.
    pub(super) fn mark(&mut self, range: Range) {
        let span = self.geometry.touched(range);
        let first = (span.first() >> self.shift) as usize;
        let last = ((span.end() - 1) >> self.shift) as usize;
        if let Some(chunks) = self.current.get_mut(first..=last) {
            chunks.fill(true);
        }
        self.sectors += range.len();
    }

    /// Sectors written since a flush was sent, or 0 where none is needed.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// A flush is about to be sent; the one before has ended.
    pub(super) fn send(&mut self) {
        for (sent, current) in self.sent.iter_mut().zip(self.current.iter_mut()) {
            *sent |= core::mem::take(current);
        }
        self.sectors = 0;
    }

    /// The flush has succeeded.
    pub(super) fn secured(&mut self) {
        self.sent.fill(false);
    }

    /// The clone may have lost what is marked: the regions of the first chunk from `from` on, which
    /// is forgotten, and where to go on. From chunk 0 to the end in this way is all that was marked
    /// before the first call; what is marked meanwhile is found or not.
    pub(super) fn lost(&mut self, from: usize) -> Option<(Span, usize)> {
        if from == 0 {
            self.sectors = 0;
        }
        let marks = self
            .sent
            .iter_mut()
            .zip(self.current.iter_mut())
            .enumerate();
        let (chunk, (sent, current)) = marks
            .skip(from)
            .find(|(_, (sent, current))| **sent || **current)?;
        (*sent, *current) = (false, false);
        let first = (chunk as u64) << self.shift;
        let end = (first + (1 << self.shift)).min(self.geometry.regions());
        Some((self.geometry.span(first, end)?, chunk + 1))
    }

    /// Takes over the marks of a target that nobody uses any more, as far as both go.
    pub(super) fn adopt(&mut self, mut other: Self) {
        let geometry = self.geometry;
        let mut from = 0;
        while let Some((span, next)) = other.lost(from) {
            from = next;
            let range = other.geometry.sectors(span);
            let end = range.end().min(geometry.len());
            if let Some(range) = geometry.range(range.start(), end.saturating_sub(range.start())) {
                self.mark(range);
            }
        }
    }
}

#[kunit_tests(clone_rs_unflushed)]
mod tests {
    use super::*;

    fn geometry(len: u64) -> Result<Geometry> {
        Geometry::new(0, len, 0, 0, 8).map_err(|_| EINVAL)
    }

    fn lost(marks: &mut Unflushed) -> Result<KVec<(u64, u64)>> {
        let mut spans = KVec::with_capacity(8, GFP_KERNEL)?;
        let mut from = 0;
        while let Some((span, next)) = marks.lost(from) {
            from = next;
            spans.push((span.first(), span.end()), GFP_KERNEL)?;
        }
        Ok(spans)
    }

    #[test]
    fn what_a_flush_has_secured_is_not_lost() -> Result {
        let geometry = geometry(100)?;
        let mut marks = Unflushed::new(geometry)?;
        let range = |start, len| geometry.range(start, len).ok_or(EINVAL);
        marks.mark(range(0, 9)?);
        assert_eq!(marks.sectors(), 9);
        marks.send();
        assert_eq!(marks.sectors(), 0);
        marks.mark(range(96, 4)?);
        marks.secured();
        assert_eq!(lost(&mut marks)?.as_slice(), &[(12, 13)]);
        assert_eq!(lost(&mut marks)?.as_slice(), &[]);
        Ok(())
    }

    #[test]
    fn what_no_flush_has_secured_is_lost() -> Result {
        let geometry = geometry(100)?;
        let mut marks = Unflushed::new(geometry)?;
        marks.mark(geometry.range(8, 8).ok_or(EINVAL)?);
        marks.send();
        marks.mark(geometry.range(24, 8).ok_or(EINVAL)?);
        assert_eq!(lost(&mut marks)?.as_slice(), &[(1, 2), (3, 4)]);
        Ok(())
    }

    #[test]
    fn large_targets_have_large_chunks() -> Result {
        let geometry = geometry(8 << 20)?;
        let mut marks = Unflushed::new(geometry)?;
        assert!(marks.sent.len() as u64 <= CHUNKS);
        marks.mark(geometry.range(2048, 1).ok_or(EINVAL)?);
        assert_eq!(lost(&mut marks)?.as_slice(), &[(256, 512)]);
        Ok(())
    }

    #[test]
    fn marks_are_taken_over_as_far_as_they_go() -> Result {
        let large = geometry(100)?;
        let mut old = Unflushed::new(large)?;
        old.mark(large.all());
        old.send();
        let mut new = Unflushed::new(geometry(20)?)?;
        new.adopt(old);
        assert_eq!(new.sectors(), 20);
        assert_eq!(lost(&mut new)?.as_slice(), &[(0, 1), (1, 2), (2, 3)]);
        Ok(())
    }
}
