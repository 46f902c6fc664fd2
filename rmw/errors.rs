// SPDX-License-Identifier: GPL-2.0

//! What has failed since the last `start`.

use kernel::{fmt, prelude::*};

/// Which device failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Backing,
    Clone,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Backing => "backing",
            Self::Clone => "clone",
        }
    }
}

/// One failure, or adjacent ones of the same kind. A flush has no sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    side: Side,
    errno: c_int,
    /// Counted from the target's start.
    sector: u64,
    count: u64,
}

impl Entry {
    /// Whether both are of the same kind and nothing is between them, or both are flushes.
    fn touches(&self, other: &Self) -> bool {
        let end = |entry: &Self| entry.sector + entry.count;
        (self.side, self.errno, self.count == 0) == (other.side, other.errno, other.count == 0)
            && self.sector <= end(other)
            && other.sector <= end(self)
    }

    /// Both as one.
    fn joined(self, other: &Self) -> Self {
        let sector = self.sector.min(other.sector);
        let end = (self.sector + self.count).max(other.sector + other.count);
        Self {
            sector,
            count: end - sector,
            ..self
        }
    }
}

/// A bounded list. Locking: its owner's.
pub(super) struct ErrorList {
    entries: KVec<Entry>,
    /// How many did not fit, of either side.
    left_out: [u64; 2],
}

impl ErrorList {
    /// The most entries.
    const MAX: usize = 64;

    /// Allocates an empty list. Errors: `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            entries: KVec::with_capacity(Self::MAX, GFP_KERNEL)?,
            left_out: [0; 2],
        })
    }

    /// What stands for a list that was taken away; allocates nothing.
    pub(super) fn none() -> Self {
        Self {
            entries: KVec::new(),
            left_out: [0; 2],
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.left_out = [0; 2];
    }

    /// Adds a failure of `count` sectors at `sector`. What touches it and is of the same kind
    /// becomes one with it.
    pub(super) fn add(&mut self, side: Side, errno: c_int, sector: u64, count: u64) {
        let mut new = Entry {
            side,
            errno,
            sector,
            count,
        };
        let place = self.entries.iter().position(|entry| entry.touches(&new));
        let place = place.unwrap_or(self.entries.len());
        // A list that is full has room again where this closes a gap.
        self.entries.retain(|entry| {
            let apart = !entry.touches(&new);
            if !apart {
                new = new.joined(entry);
            }
            apart
        });
        if self.entries.len() >= Self::MAX
            || self.entries.insert_within_capacity(place, new).is_err()
        {
            self.left_out[side as usize] += 1;
        }
    }

    /// Forgets what could not be read: it is tried again.
    pub(super) fn forget_reads(&mut self) {
        self.entries.retain(|entry| entry.side != Side::Backing);
        self.left_out[Side::Backing as usize] = 0;
    }

    /// Writes `<shown> <left out> [<side> <errno> <sector> <count>]...`.
    pub(super) fn write(&self, text: &mut impl fmt::Write) -> fmt::Result {
        let left_out: u64 = self.left_out.iter().sum();
        write!(text, "{} {}", self.entries.len(), left_out)?;
        self.entries.iter().try_for_each(|entry| {
            let Entry {
                side,
                errno,
                sector,
                count,
            } = entry;
            let side = side.name();
            write!(text, " {side} {} {sector} {count}", -errno)
        })
    }
}

#[kunit_tests(clone_rs_errors)]
mod tests {
    use super::*;
    use kernel::str::CString;

    fn written(list: &ErrorList) -> Result<CString> {
        struct Shown<'a>(&'a ErrorList);
        impl fmt::Display for Shown<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f)
            }
        }
        CString::try_from_fmt(fmt!("{}", Shown(list)))
    }

    #[test]
    fn adjacent_failures_are_one() -> Result {
        let mut list = ErrorList::new()?;
        list.add(Side::Backing, -5, 8, 8);
        list.add(Side::Clone, -5, 16, 8);
        list.add(Side::Backing, -5, 16, 8);
        list.add(Side::Backing, -5, 0, 8);
        list.add(Side::Backing, -61, 24, 8);
        assert_eq!(
            written(&list)?.to_bytes(),
            b"3 0 backing 5 0 24 clone 5 16 8 backing 61 24 8"
        );
        list.clear();
        assert_eq!(written(&list)?.to_bytes(), b"0 0");
        Ok(())
    }

    #[test]
    fn a_failure_is_listed_once_and_a_flush_by_itself() -> Result {
        let mut list = ErrorList::new()?;
        for _ in 0..3 {
            list.add(Side::Clone, -5, 0, 0);
            list.add(Side::Clone, -5, 0, 8);
        }
        assert_eq!(written(&list)?.to_bytes(), b"2 0 clone 5 0 0 clone 5 0 8");
        Ok(())
    }

    #[test]
    fn what_closes_a_gap_joins_both_sides() -> Result {
        let mut list = ErrorList::new()?;
        list.add(Side::Backing, -5, 0, 8);
        list.add(Side::Backing, -5, 16, 8);
        list.add(Side::Backing, -5, 8, 8);
        // Parts of what is there.
        list.add(Side::Backing, -5, 4, 8);
        list.add(Side::Backing, -5, 20, 8);
        assert_eq!(written(&list)?.to_bytes(), b"1 0 backing 5 0 28");
        list.add(Side::Clone, -5, 0, 8);
        list.forget_reads();
        assert_eq!(written(&list)?.to_bytes(), b"1 0 clone 5 0 8");
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_counted() -> Result {
        let mut list = ErrorList::new()?;
        for entry in 0..ErrorList::MAX as u64 + 3 {
            list.add(Side::Clone, -5, entry * 16, 8);
        }
        assert_eq!(list.left_out, [0, 3]);
        assert_eq!(list.entries.len(), ErrorList::MAX);
        list.add(Side::Backing, -5, 0, 8);
        list.forget_reads();
        assert_eq!(list.left_out, [0, 3]);
        Ok(())
    }
}
