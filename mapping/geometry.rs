// SPDX-License-Identifier: GPL-2.0

//! Where things are: sectors of the mapped device, of the target and of both devices, regions.
//!
//! A region begins where a logical block of the clone does, so that no block belongs to two of
//! them: whoever has a region may read a block, change a part of it and write it. Where the target
//! begins within a block, the first region is shorter by as much.
//!
//! All lengths and offsets are in sectors of 512 bytes. Nothing here calls the kernel.

mod blocks;
mod range;

pub(crate) use blocks::Blocks;
use kernel::prelude::*;
pub(crate) use range::{Range, Span};

/// The smallest region: 4 KiB.
pub(crate) const MIN_REGION_SIZE: u64 = 8;
/// The largest region: 1 GiB.
pub(crate) const MAX_REGION_SIZE: u64 = 1 << 21;
/// The most regions that a target may have, so that their indexes and counts fit everywhere.
pub(crate) const MAX_REGIONS: u64 = 1 << 31;
/// The region size where none is given: 64 KiB, or what keeps the number of regions below
/// [`DEFAULT_MAX_REGIONS`].
const DEFAULT_REGION_SIZE: u64 = 128;
/// The most regions that are made without being asked for (1 TiB of 64 KiB): 16 MiB of state.
const DEFAULT_MAX_REGIONS: u64 = 1 << 24;

/// The region size of a target of `len` sectors for which none is given.
pub(crate) fn default_region_size(len: u64) -> u64 {
    let mut size = DEFAULT_REGION_SIZE;
    while len.div_ceil(size) > DEFAULT_MAX_REGIONS && size < MAX_REGION_SIZE {
        size *= 2;
    }
    size
}

/// Why a geometry is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GeometryError {
    /// A range wraps around 2^64 sectors.
    Overflow,
    /// The region size is not a power of two from 8 up to 2^21, or smaller than a logical block.
    RegionSize,
    /// There are more than 2^31 regions.
    TooManyRegions,
}

/// The layout of a target: constant, and checked once.
///
/// # Invariants
///
/// `len` is not 0. `begin`, `backing` and `clone`, each plus `len`, do not overflow. The region
/// size is a power of two, and there are at most [`MAX_REGIONS`] regions. The logical blocks are
/// powers of two, and no larger than a region; `lead` is what `clone` is more than a multiple of
/// `clone_block`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    begin: u64,
    len: u64,
    backing: u64,
    clone: u64,
    region_shift: u32,
    /// The devices' logical blocks.
    backing_block: u64,
    clone_block: u64,
    /// How far within a block of the clone the target begins.
    lead: u64,
}

impl Geometry {
    /// Checks the layout of a target that maps `len` sectors at `begin` of the mapped device to
    /// sector `backing` of the backing device, and copies them to sector `clone` of the clone. The
    /// devices' logical blocks are not known yet: they count as sectors.
    pub(crate) fn new(
        begin: u64,
        len: u64,
        backing: u64,
        clone: u64,
        region_size: u64,
    ) -> Result<Self, GeometryError> {
        for start in [begin, backing, clone] {
            start.checked_add(len).ok_or(GeometryError::Overflow)?;
        }
        if !region_size.is_power_of_two()
            || !(MIN_REGION_SIZE..=MAX_REGION_SIZE).contains(&region_size)
            || len == 0
        {
            return Err(GeometryError::RegionSize);
        }
        if len.div_ceil(region_size) > MAX_REGIONS {
            return Err(GeometryError::TooManyRegions);
        }
        // INVARIANT: Just checked.
        Ok(Self {
            begin,
            len,
            backing,
            clone,
            region_shift: region_size.trailing_zeros(),
            backing_block: 1,
            clone_block: 1,
            lead: 0,
        })
    }

    /// The target's length.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The sector of the backing device where the target begins.
    pub(crate) fn backing_start(&self) -> u64 {
        self.backing
    }

    /// The sector of the clone device where the copy begins.
    pub(crate) fn clone_start(&self) -> u64 {
        self.clone
    }

    /// Sectors of a region.
    pub(crate) fn region_size(&self) -> u64 {
        1 << self.region_shift
    }

    /// The number of regions; the first one and the last one may be short.
    pub(crate) fn regions(&self) -> u64 {
        (self.lead + self.len).div_ceil(self.region_size())
    }

    /// Whether the last region is short: a longer target has more of it.
    pub(crate) fn ends_within_a_region(&self) -> bool {
        (self.lead + self.len) & (self.region_size() - 1) != 0
    }

    /// All sectors.
    pub(crate) fn all(&self) -> Range {
        // INVARIANT: A target is not empty.
        Range {
            start: 0,
            len: self.len,
        }
    }

    /// The regions from `first` up to `end`, or `None` where there are none, or not so many.
    pub(crate) fn span(&self, first: u64, end: u64) -> Option<Span> {
        // INVARIANT: Just checked.
        (first < end && end <= self.regions()).then(|| Span {
            first,
            count: end - first,
        })
    }

    /// The regions that `range` touches.
    #[inline(always)]
    pub(crate) fn touched(&self, range: Range) -> Span {
        let first = self.region_of(range.start);
        let last = self.region_of(range.end() - 1);
        // INVARIANT: The range is not empty, and ends within the target.
        Span {
            first,
            count: last - first + 1,
        }
    }

    /// The regions that `range` covers whole.
    pub(crate) fn covered(&self, range: Range) -> Option<Span> {
        let first = match range.start {
            0 => 0,
            start => (self.lead + start).div_ceil(self.region_size()),
        };
        let end = if range.end() == self.len {
            self.regions()
        } else {
            self.region_of(range.end())
        };
        self.span(first, end)
    }

    /// The sectors of some regions.
    pub(crate) fn sectors(&self, span: Span) -> Range {
        let start = self.first_sector(span.first);
        let end = self.first_sector(span.end()).min(self.len);
        // INVARIANT: The span is not empty, and ends within the target.
        Range {
            start,
            len: end - start,
        }
    }

    /// The region that a sector of the target is in.
    #[inline]
    pub(crate) fn region_of(&self, sector: u64) -> u64 {
        (self.lead + sector) >> self.region_shift
    }

    /// The first sector of a region; that after the last one is where regions would go on.
    pub(crate) fn first_sector(&self, region: u64) -> u64 {
        (region << self.region_shift).saturating_sub(self.lead)
    }

    /// Whether both begin at the same places, and have regions that do.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        (self.begin, self.backing, self.clone) == (other.begin, other.backing, other.clone)
            && (self.region_shift, self.lead) == (other.region_shift, other.lead)
    }

    /// A range counted from the target's start, or `None` where it is empty or ends outside.
    pub(crate) fn range(&self, start: u64, len: u64) -> Option<Range> {
        let end = start.checked_add(len)?;
        // INVARIANT: Just checked.
        (len > 0 && end <= self.len).then_some(Range { start, len })
    }

    /// The same, of sectors of the mapped device.
    #[inline]
    pub(crate) fn mapped_range(&self, sector: u64, sectors: u64) -> Option<Range> {
        self.range(sector.checked_sub(self.begin)?, sectors)
    }

    /// The sector of the backing device where `range` begins.
    #[inline]
    pub(crate) fn backing_sector(&self, range: Range) -> u64 {
        self.backing + range.start
    }

    /// The sector of the clone device where `range` begins.
    pub(crate) fn clone_sector(&self, range: Range) -> u64 {
        self.clone + range.start
    }
}

#[kunit_tests(clone_rs_geometry)]
mod tests {
    use super::*;

    fn geometry(len: u64) -> Result<Geometry> {
        Geometry::new(16, len, 1000, 2000, 8).map_err(|_| EINVAL)
    }

    #[test]
    fn the_last_region_may_be_short() -> Result {
        assert_eq!(geometry(1)?.regions(), 1);
        assert_eq!(geometry(8)?.regions(), 1);
        assert_eq!(geometry(9)?.regions(), 2);
        Ok(())
    }

    #[test]
    fn ranges_end_within_the_target() -> Result {
        let geometry = geometry(100)?;
        assert!(geometry.range(0, 100).is_some());
        assert!(geometry.range(99, 1).is_some());
        for (start, len) in [
            (0, 0),
            (100, 0),
            (0, 101),
            (99, 2),
            (100, 1),
            (u64::MAX, 2),
            (1, u64::MAX),
        ] {
            assert!(geometry.range(start, len).is_none());
        }
        assert!(geometry.mapped_range(15, 1).is_none());
        assert!(geometry.mapped_range(116, 1).is_none());
        assert_eq!(geometry.mapped_range(115, 1), geometry.range(99, 1));
        Ok(())
    }

    #[test]
    fn sectors_of_both_devices() -> Result {
        let geometry = geometry(100)?;
        let range = geometry.range(7, 3).ok_or(EINVAL)?;
        assert_eq!(geometry.backing_sector(range), 1007);
        assert_eq!(geometry.clone_sector(range), 2007);
        Ok(())
    }

    #[test]
    fn regions_of_a_range() -> Result {
        let geometry = geometry(100)?;
        // Start and length, the regions touched, those covered whole.
        for (start, len, touched, covered) in [
            (0, 1, (0, 1), None),
            (1, 1, (0, 1), None),
            (0, 8, (0, 1), Some((0, 1))),
            (0, 9, (0, 2), Some((0, 1))),
            (7, 1, (0, 1), None),
            (7, 2, (0, 2), None),
            (7, 17, (0, 3), Some((1, 3))),
            (96, 4, (12, 13), Some((12, 13))),
            (97, 3, (12, 13), None),
            (96, 3, (12, 13), None),
            (0, 100, (0, 13), Some((0, 13))),
        ] {
            let range = geometry.range(start, len).ok_or(EINVAL)?;
            let span = |(first, end)| geometry.span(first, end);
            assert_eq!(Some(geometry.touched(range)), span(touched));
            assert_eq!(geometry.covered(range), covered.and_then(span));
        }
        Ok(())
    }

    #[test]
    fn sectors_of_regions_end_with_the_target() -> Result {
        let geometry = geometry(100)?;
        let sectors = |first, end| geometry.span(first, end).map(|span| geometry.sectors(span));
        assert_eq!(sectors(0, 13), Some(geometry.all()));
        assert_eq!(sectors(12, 13), geometry.range(96, 4));
        assert_eq!(sectors(3, 5), geometry.range(24, 16));
        assert_eq!(sectors(3, 3), None);
        assert_eq!(sectors(3, 14), None);
        Ok(())
    }

    #[test]
    fn impossible_layouts_are_refused() {
        let error = |begin, len, backing, clone, size| {
            Geometry::new(begin, len, backing, clone, size).err()
        };
        assert_eq!(error(u64::MAX, 1, 0, 0, 8), Some(GeometryError::Overflow));
        assert_eq!(
            error(0, 2, u64::MAX - 1, 0, 8),
            Some(GeometryError::Overflow)
        );
        assert_eq!(
            error(0, 2, 0, u64::MAX - 1, 8),
            Some(GeometryError::Overflow)
        );
        for size in [0, 4, 7, 12, MAX_REGION_SIZE * 2, u64::MAX] {
            assert_eq!(error(0, 2, 0, 0, size), Some(GeometryError::RegionSize));
        }
        assert_eq!(
            error(0, u64::MAX, 0, 0, 8),
            Some(GeometryError::TooManyRegions)
        );
        assert_eq!(error(0, MAX_REGIONS * 8, 0, 0, 8), None);
        assert_eq!(
            error(0, MAX_REGIONS * 8 + 1, 0, 0, 8),
            Some(GeometryError::TooManyRegions)
        );
    }

    #[test]
    fn the_default_region_size_grows_with_the_target() {
        assert_eq!(default_region_size(1), 128);
        assert_eq!(default_region_size(128 << 24), 128);
        assert_eq!(default_region_size((128 << 24) + 1), 256);
        assert_eq!(default_region_size(u64::MAX), MAX_REGION_SIZE);
    }
}
