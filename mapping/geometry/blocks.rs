// SPDX-License-Identifier: GPL-2.0

//! The logical blocks of both devices. What is no whole blocks of the clone is a part: it can't be
//! written there without the rest of its blocks.

use super::{Geometry, GeometryError, Range, MAX_REGIONS};
use kernel::prelude::*;

/// The whole logical blocks of a device that hold a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Where they begin on the device.
    pub(crate) sector: u64,
    /// How many sectors they have.
    pub(crate) sectors: u64,
    /// How many of them come before the range.
    pub(crate) lead: u64,
}

impl Blocks {
    /// Those of `block` sectors that hold `len` sectors at `start` of the device.
    fn around(start: u64, len: u64, block: u64) -> Self {
        // A block is a power of two.
        let lead = start & (block - 1);
        Self {
            sector: start - lead,
            sectors: (lead + len).next_multiple_of(block),
            lead,
        }
    }
}

impl Geometry {
    /// The same on devices with logical blocks of so many sectors, powers of two.
    pub(crate) fn on_blocks(self, backing: u32, clone: u32) -> Result<Self, GeometryError> {
        let (backing_block, clone_block) = (u64::from(backing), u64::from(clone));
        if backing_block.max(clone_block) > self.region_size() {
            return Err(GeometryError::RegionSize);
        }
        // INVARIANT: Just checked, and below. `lead` is no more than `clone`, so that `lead` plus
        // `len` does not overflow either.
        let geometry = Self {
            backing_block,
            clone_block,
            lead: self.clone & (clone_block - 1),
            ..self
        };
        if geometry.regions() > MAX_REGIONS {
            return Err(GeometryError::TooManyRegions);
        }
        Ok(geometry)
    }

    /// Sectors of a logical block of the backing device.
    pub(crate) fn backing_block(&self) -> u64 {
        self.backing_block
    }

    /// Sectors of a logical block of the clone.
    pub(crate) fn clone_block(&self) -> u64 {
        self.clone_block
    }

    /// The blocks of the backing device that hold `range`.
    pub(crate) fn backing_blocks(&self, range: Range) -> Blocks {
        Blocks::around(self.backing_sector(range), range.len, self.backing_block)
    }

    /// The blocks of the clone that hold `range`. Some of their sectors may lie outside the target.
    pub(crate) fn clone_blocks(&self, range: Range) -> Blocks {
        Blocks::around(self.clone_sector(range), range.len, self.clone_block)
    }

    /// By how much the blocks of the backing device that hold whole blocks of the clone may be
    /// longer.
    pub(crate) fn slack(&self) -> u64 {
        if self.is_skewed() {
            2 * self.backing_block
        } else {
            0
        }
    }

    /// Whether some blocks of the backing device are not whole blocks of the clone.
    pub(crate) fn has_parts(&self) -> bool {
        self.clone_block > self.backing_block || self.lead > 0
    }

    /// Whether `range` is no whole blocks of the clone: to write it there takes the rest of what
    /// its first and its last block have.
    #[inline]
    pub(crate) fn is_part(&self, range: Range) -> bool {
        ((self.lead + range.start) | (self.lead + range.end())) & (self.clone_block - 1) != 0
    }

    /// `range` and all else of the target in the same blocks of the clone.
    pub(crate) fn rounded_out(&self, range: Range) -> Range {
        let mask = self.clone_block - 1;
        let start = ((self.lead + range.start) & !mask).saturating_sub(self.lead);
        let end = ((self.lead + range.end() + mask) & !mask) - self.lead;
        // INVARIANT: It has all of the range, and ends within the target.
        Range {
            start,
            len: end.min(self.len) - start,
        }
    }

    /// The whole blocks of the clone in `range`.
    pub(crate) fn rounded_in(&self, range: Range) -> Option<Range> {
        let mask = self.clone_block - 1;
        let start = ((self.lead + range.start + mask) & !mask).checked_sub(self.lead)?;
        let end = ((self.lead + range.end()) & !mask).checked_sub(self.lead)?;
        self.range(start, end.checked_sub(start)?)
    }

    /// Whether both targets have parts of one block of the same clone, but no sector in common.
    pub(crate) fn shares_a_block(&self, other: &Self) -> bool {
        let ends = |geometry: &Self| {
            let blocks = geometry.clone_blocks(geometry.all());
            [
                (geometry.clone, geometry.clone + geometry.len),
                (blocks.sector, blocks.sector + blocks.sectors),
            ]
        };
        let overlap = |ours: (u64, u64), theirs: (u64, u64)| ours.0 < theirs.1 && theirs.0 < ours.1;
        let ([ours, our_blocks], [theirs, their_blocks]) = (ends(self), ends(other));
        overlap(our_blocks, their_blocks) && !overlap(ours, theirs)
    }

    /// Whether blocks of the backing device begin at other places than those of the clone: then
    /// what is made of the one is never made of the other.
    fn is_skewed(&self) -> bool {
        self.lead & (self.backing_block - 1) != 0
    }

    /// The first sectors of a user's write, which has whole blocks of the backing device: at most
    /// `most`, and whole blocks of the clone or a part of one; where that can't be, at most
    /// `most_merged`.
    pub(crate) fn first_of_write(&self, range: Range, most: u64, most_merged: u64) -> Range {
        let (first, _) = if self.is_skewed() && self.is_part(range) {
            range.split(most.min(most_merged))
        } else if self.is_skewed() {
            range.split(most)
        } else {
            self.cut(range, most)
        };
        first
    }

    /// The whole blocks of the backing device that a user's write has before a sector.
    pub(crate) fn write_before(&self, range: Range, sector: u64) -> Option<Range> {
        let before = sector.checked_sub(range.start)? & !(self.backing_block - 1);
        self.range(range.start, before.min(range.len))
    }

    /// Cuts off the first sectors of `range`, at most `most`, and returns them and the rest, if
    /// there is one. They are whole blocks of the clone, or a part of one; and of one block of the
    /// backing device where `most` is not more than that has.
    pub(crate) fn cut(&self, range: Range, most: u64) -> (Range, Option<Range>) {
        let mut most = most.min(range.len);
        if most <= self.backing_block {
            most = most.min(self.backing_block - self.backing_blocks(range).lead);
        }
        let mask = self.clone_block - 1;
        let start = self.lead + range.start;
        // The last border of blocks.
        let last = (start + most) & !mask;
        let end = if last <= start {
            start + most
        } else if start & mask == 0 {
            last
        } else {
            (start | mask) + 1
        };
        range.split(end - start)
    }
}

#[kunit_tests(clone_rs_blocks)]
mod tests {
    use super::*;

    /// A target of 100 sectors from sector 5 of a block of the clone on, with regions of 16.
    fn shifted(backing_block: u32) -> Result<Geometry> {
        let geometry = Geometry::new(0, 100, 1000, 2005, 16).map_err(|_| EINVAL)?;
        geometry.on_blocks(backing_block, 8).map_err(|_| EINVAL)
    }

    #[test]
    fn regions_begin_where_blocks_of_the_clone_do() -> Result {
        let geometry = shifted(1)?;
        assert_eq!(geometry.regions(), 7);
        assert!(geometry.ends_within_a_region());
        let sectors = |first, end| geometry.span(first, end).map(|span| geometry.sectors(span));
        assert_eq!(sectors(0, 1), geometry.range(0, 11));
        assert_eq!(sectors(1, 3), geometry.range(11, 32));
        assert_eq!(sectors(6, 7), geometry.range(91, 9));
        assert_eq!(sectors(0, 7), Some(geometry.all()));
        // Start and length, the regions touched, those covered whole.
        for (start, len, touched, covered) in [
            (0, 11, (0, 1), Some((0, 1))),
            (1, 10, (0, 1), None),
            (0, 12, (0, 2), Some((0, 1))),
            (10, 1, (0, 1), None),
            (11, 16, (1, 2), Some((1, 2))),
            (10, 18, (0, 3), Some((1, 2))),
            (91, 9, (6, 7), Some((6, 7))),
            (91, 8, (6, 7), None),
            (0, 100, (0, 7), Some((0, 7))),
        ] {
            let range = geometry.range(start, len).ok_or(EINVAL)?;
            let span = |(first, end)| geometry.span(first, end);
            assert_eq!(Some(geometry.touched(range)), span(touched));
            assert_eq!(geometry.covered(range), covered.and_then(span));
        }
        for sector in 0..100 {
            let region = geometry.region_of(sector);
            assert!(geometry.first_sector(region) <= sector);
            assert!(geometry.first_sector(region + 1) > sector);
        }
        Ok(())
    }

    #[test]
    fn ranges_are_rounded_to_blocks_of_the_clone() -> Result {
        let geometry = shifted(1)?;
        // Start and length; whether it is a part of blocks, all of these, those that it has whole.
        for (start, len, is_part, out, whole) in [
            (0, 3, true, (0, 3), None),
            (1, 1, true, (0, 3), None),
            (3, 8, false, (3, 8), Some((3, 8))),
            (3, 9, true, (3, 16), Some((3, 8))),
            (2, 9, true, (0, 11), Some((3, 8))),
            (2, 2, true, (0, 11), None),
            (98, 1, true, (91, 8), None),
            (99, 1, true, (99, 1), None),
            (0, 100, true, (0, 100), Some((3, 96))),
        ] {
            let range = |(start, len)| geometry.range(start, len);
            let this = range((start, len)).ok_or(EINVAL)?;
            assert_eq!(geometry.is_part(this), is_part);
            assert_eq!(Some(geometry.rounded_out(this)), range(out));
            assert_eq!(geometry.rounded_in(this), whole.and_then(range));
        }
        Ok(())
    }

    #[test]
    fn blocks_hold_a_range() -> Result {
        let geometry = shifted(4)?;
        let range = geometry.range(2, 3).ok_or(EINVAL)?;
        let blocks = |sector, sectors, lead| Blocks {
            sector,
            sectors,
            lead,
        };
        assert_eq!(geometry.backing_blocks(range), blocks(1000, 8, 2));
        assert_eq!(geometry.clone_blocks(range), blocks(2000, 16, 7));
        assert_eq!(geometry.clone_blocks(geometry.all()), blocks(2000, 112, 5));
        assert!(geometry.has_parts() && shifted(8)?.has_parts());
        // What of whole blocks of the clone begins and ends within blocks of the backing device.
        for (backing_block, slack) in [(1, 0), (4, 8), (8, 16), (16, 32)] {
            let geometry = shifted(backing_block)?;
            assert_eq!(geometry.slack(), slack);
            for start in (3..91).step_by(8) {
                let range = geometry.range(start, 8).ok_or(EINVAL)?;
                assert!(geometry.backing_blocks(range).sectors <= 8 + slack);
            }
        }
        Ok(())
    }

    #[test]
    fn writes_are_whole_blocks_of_the_backing_device() -> Result {
        for backing_block in [1, 4, 8] {
            let geometry = shifted(backing_block)?;
            let block = u64::from(backing_block);
            for start in (0..96).step_by(backing_block as usize) {
                let range = geometry.range(start, (96 - start) / block * block);
                let range = range.ok_or(EINVAL)?;
                let first = geometry.first_of_write(range, 64, 32);
                assert!(first.start() == start && (1..=64).contains(&first.len()));
                assert_eq!(first.len() % block, 0);
                assert!(!geometry.is_part(first) || first.len() <= 32);
                // What is longer is merged as a whole.
                let blocks = geometry.clone_blocks(first).sectors;
                assert!(!geometry.is_part(first) || blocks == 8 || block > 1);
                let before = geometry.write_before(range, 43);
                let wanted = 43u64.saturating_sub(start) / block * block;
                assert_eq!(before.map_or(0, Range::len), wanted.min(range.len()));
            }
        }
        Ok(())
    }

    #[test]
    fn neighbours_may_share_a_block() -> Result {
        let shares = |ours: (u64, u64), theirs: (u64, u64)| -> Result<bool> {
            let geometry = |(clone, len)| {
                let geometry = Geometry::new(0, len, 0, clone, 16).map_err(|_| EINVAL)?;
                geometry.on_blocks(1, 8).map_err(|_| EINVAL)
            };
            let (ours, theirs) = (geometry(ours)?, geometry(theirs)?);
            assert_eq!(ours.shares_a_block(&theirs), theirs.shares_a_block(&ours));
            Ok(ours.shares_a_block(&theirs))
        };
        assert!(shares((0, 20), (20, 20))? && shares((0, 20), (23, 1))?);
        assert!(!shares((0, 24), (24, 20))? && !shares((0, 20), (24, 20))?);
        // That is another mistake.
        assert!(!shares((0, 20), (19, 20))? && !shares((0, 20), (0, 20))?);
        Ok(())
    }

    #[test]
    fn aligned_devices_have_no_parts() -> Result {
        for (clone, backing_block, clone_block, parts) in [
            (2000, 1, 1, false),
            (2001, 8, 1, false),
            (2000, 8, 8, false),
            (2000, 1, 8, true),
            (2004, 8, 8, true),
        ] {
            let geometry = Geometry::new(0, 96, 0, clone, 16).map_err(|_| EINVAL)?;
            let geometry = geometry.on_blocks(backing_block, clone_block);
            assert_eq!(geometry.map_err(|_| EINVAL)?.has_parts(), parts);
        }
        Ok(())
    }

    #[test]
    fn pieces_are_whole_blocks_or_a_part_of_one() -> Result {
        for backing_block in [1, 4, 8, 16] {
            let geometry = shifted(backing_block)?;
            for most in [1, 4, 8, 16, 24, 100].map(|most: u64| most.max(backing_block.into())) {
                let mut left = Some(geometry.all());
                let mut at = 0;
                while let Some(range) = left {
                    let (piece, rest) = geometry.cut(range, most);
                    assert_eq!(
                        (piece.start(), rest.map_or(100, Range::start)),
                        (at, piece.end())
                    );
                    assert!(piece.len() <= most);
                    let blocks = geometry.clone_blocks(piece);
                    assert!(!geometry.is_part(piece) || blocks.sectors == 8);
                    let read = geometry.backing_blocks(piece).sectors;
                    assert!(read <= most + geometry.slack());
                    assert!(most > backing_block.into() || read == u64::from(backing_block));
                    at = piece.end();
                    left = rest;
                }
                assert_eq!(at, 100);
            }
        }
        Ok(())
    }

    #[test]
    fn small_pieces_lie_in_one_block_of_the_backing_device() -> Result {
        let geometry = Geometry::new(0, 96, 1000, 2000, 16).map_err(|_| EINVAL)?;
        let geometry = geometry.on_blocks(8, 1).map_err(|_| EINVAL)?;
        for start in 0..96 {
            let range = geometry.range(start, 96 - start).ok_or(EINVAL)?;
            for most in [1, 2, 4, 8] {
                let (piece, _) = geometry.cut(range, most);
                assert_eq!(geometry.backing_blocks(piece).sectors, 8);
            }
        }
        Ok(())
    }

    #[test]
    fn blocks_fit_in_regions() -> Result {
        let geometry = Geometry::new(0, 100, 0, 0, 8).map_err(|_| EINVAL)?;
        for blocks in [(16, 1), (1, 16)] {
            let error = geometry.on_blocks(blocks.0, blocks.1).err();
            assert_eq!(error, Some(GeometryError::RegionSize));
        }
        let most = |clone| Geometry::new(0, MAX_REGIONS * 8, 0, clone, 8).map_err(|_| EINVAL);
        assert_eq!(most(8)?.on_blocks(1, 8).err(), None);
        let error = most(9)?.on_blocks(1, 8).err();
        assert_eq!(error, Some(GeometryError::TooManyRegions));
        Ok(())
    }
}
