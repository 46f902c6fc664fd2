// SPDX-License-Identifier: GPL-2.0

//! What is in flight of the user's bios that a job must know of: in `mirror` and during a verify
//! all writes, and always discards.
//!
//! A plain table, protected by one lock of its owner's. Whoever enters it looks at the regions in
//! the same critical section, and so does a job that claims regions: one of the two comes first,
//! and the other one sees it. Nothing here calls the kernel.

use super::geometry::Range;
use kernel::prelude::*;

/// The most entries; more bios than that wait.
pub(super) const CAPACITY: usize = 1024;

const WORD: usize = u64::BITS as usize;

/// What an entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A write to the backing device only. Its regions become dirty when it ends.
    Plain,
    /// A write to both devices.
    Duplicate,
    /// A discard.
    Discard,
}

impl Kind {
    /// Whether jobs keep away from it, and it from others of the kind.
    fn excludes(self) -> bool {
        match self {
            Self::Plain => false,
            Self::Duplicate | Self::Discard => true,
        }
    }
}

/// A bio in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) range: Range,
    pub(super) kind: Kind,
    /// How often the clone had lost something when it entered.
    pub(super) losses: u64,
    /// Whether something of it did not reach the clone that should have.
    pub(super) missed: bool,
    /// Whether it was sent to the backing device once more.
    pub(super) again: bool,
}

/// Which entry it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u16);

/// The table. Locking: its owner's.
pub(super) struct InFlight {
    /// Which entries are in use, as bits.
    used: [u64; CAPACITY / WORD],
    entries: KVVec<Option<Entry>>,
    plain: u32,
}

impl InFlight {
    /// Allocates an empty table. Errors: `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            used: [0; CAPACITY / WORD],
            entries: KVVec::from_elem(None, CAPACITY, GFP_KERNEL)?,
            plain: 0,
        })
    }

    /// Enters a bio; `None` where the table is full.
    pub(super) fn enter(&mut self, entry: Entry) -> Option<Ticket> {
        let (word, bits) =
            (self.used.iter_mut().enumerate()).find(|(_, bits)| **bits != u64::MAX)?;
        let bit = bits.trailing_ones() as usize;
        let index = word * WORD + bit;
        *self.entries.get_mut(index)? = Some(entry);
        *bits |= 1 << bit;
        self.plain += u32::from(entry.kind == Kind::Plain);
        Some(Ticket(index as u16))
    }

    /// The bio has ended.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Entry> {
        let index = usize::from(ticket.0);
        let entry = self.entries.get_mut(index)?.take()?;
        if let Some(bits) = self.used.get_mut(index / WORD) {
            *bits &= !(1 << (index % WORD));
        }
        self.plain -= u32::from(entry.kind == Kind::Plain);
        Some(entry)
    }

    /// An entry.
    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(ticket.0))?.as_mut()
    }

    /// How many writes go to the backing device only.
    pub(super) fn plain(&self) -> u32 {
        self.plain
    }

    /// Whether any entry overlaps a range.
    pub(super) fn touches(&self, range: Range) -> bool {
        self.overlapping(range).next().is_some()
    }

    /// The entries that overlap a range.
    pub(super) fn overlapping(&self, range: Range) -> impl Iterator<Item = &Entry> + '_ {
        self.iter().filter(move |entry| entry.range.overlaps(range))
    }

    /// The writes to the backing device only that overlap a range.
    pub(super) fn plain_in(&self, range: Range) -> impl Iterator<Item = Range> + '_ {
        self.overlapping(range)
            .filter(|entry| entry.kind == Kind::Plain)
            .map(|entry| entry.range)
    }

    /// The first entry that overlaps a range.
    pub(super) fn first_touched(&self, range: Range) -> Option<Range> {
        self.overlapping(range)
            .map(|entry| entry.range)
            .min_by_key(|other| other.start())
    }

    /// The first sector of a range that a bio has from which jobs, and others like it, keep away.
    pub(super) fn conflict(&self, range: Range) -> Option<u64> {
        self.overlapping(range)
            .filter(|entry| entry.kind.excludes())
            .map(|entry| entry.range.start().max(range.start()))
            .min()
    }

    fn iter(&self) -> impl Iterator<Item = &Entry> {
        let in_use = |(word, bits): (usize, &u64)| {
            let mut bits = *bits;
            core::iter::from_fn(move || {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits.checked_sub(1)?;
                Some(word * WORD + bit)
            })
        };
        self.used
            .iter()
            .enumerate()
            .flat_map(in_use)
            .filter_map(|index| self.entries.get(index)?.as_ref())
    }
}

#[kunit_tests(clone_rs_in_flight)]
mod tests {
    use super::*;
    use crate::mapping::geometry::Geometry;

    fn entry(kind: Kind, start: u64, len: u64) -> Result<Entry> {
        Ok(Entry {
            range: range(start, len)?,
            kind,
            losses: 0,
            missed: false,
            again: false,
        })
    }

    fn range(start: u64, len: u64) -> Result<Range> {
        let geometry = Geometry::new(0, 1 << 20, 0, 0, 8).map_err(|_| EINVAL)?;
        geometry.range(start, len).ok_or(EINVAL)
    }

    #[test]
    fn what_entered_is_seen_until_it_leaves() -> Result {
        let mut table = InFlight::new()?;
        let first = table.enter(entry(Kind::Duplicate, 8, 8)?).ok_or(EINVAL)?;
        let second = table.enter(entry(Kind::Duplicate, 12, 8)?).ok_or(EINVAL)?;
        assert_eq!(table.conflict(range(0, 9)?), Some(8));
        assert_eq!(table.conflict(range(10, 100)?), Some(10));
        assert_eq!(table.conflict(range(0, 8)?), None);
        assert_eq!(table.conflict(range(20, 8)?), None);
        assert_eq!(table.leave(first), Some(entry(Kind::Duplicate, 8, 8)?));
        assert_eq!(table.conflict(range(0, 100)?), Some(12));
        assert!(table.leave(second).is_some());
        assert_eq!(table.conflict(range(0, 100)?), None);
        assert_eq!(table.leave(second), None);
        Ok(())
    }

    #[test]
    fn plain_writes_keep_nobody_away_but_are_counted() -> Result {
        let mut table = InFlight::new()?;
        let plain = table.enter(entry(Kind::Plain, 8, 8)?).ok_or(EINVAL)?;
        let discard = table.enter(entry(Kind::Discard, 64, 8)?).ok_or(EINVAL)?;
        assert_eq!(table.conflict(range(0, 64)?), None);
        assert!(table.touches(range(0, 64)?));
        assert_eq!(table.conflict(range(0, 65)?), Some(64));
        assert_eq!(table.plain(), 1);
        table.leave(plain);
        assert_eq!(table.plain(), 0);
        assert!(!table.touches(range(0, 64)?));
        table.leave(discard);
        Ok(())
    }

    #[test]
    fn a_full_table_takes_no_more() -> Result {
        let mut table = InFlight::new()?;
        let mut last = None;
        for number in 0..CAPACITY as u64 {
            last = table.enter(entry(Kind::Duplicate, number * 8, 8)?);
            assert!(last.is_some());
        }
        assert!(table.enter(entry(Kind::Plain, 0, 8)?).is_none());
        assert_eq!(table.conflict(range(8000, 8)?), Some(8000));
        let last = last.ok_or(EINVAL)?;
        table.get_mut(last).ok_or(EINVAL)?.missed = true;
        assert!(table.leave(last).is_some_and(|entry| entry.missed));
        assert!(table.enter(entry(Kind::Plain, 0, 8)?).is_some());
        Ok(())
    }
}
