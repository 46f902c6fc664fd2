// SPDX-License-Identifier: GPL-2.0

//! The grammar of a table line.
//!
//! `<backing dev> <offset> <clone dev> <offset> [<#feature args> [<feature arg>]...]`

use super::features::{self, Options};
use crate::{
    abstractions::device_mapper::{CtrError, DeviceName},
    mapping::geometry::{default_region_size, Geometry, GeometryError},
};
use kernel::{fmt, prelude::*};

/// A word of a table line or a message, as it was typed: it need not be UTF-8.
pub(super) type Word<'a> = &'a [u8];

/// Shows the beginning of a word in the log, with what can't be printed escaped: a line of the log
/// that is too long would be cut off with its end.
pub(super) fn printable(word: Word<'_>) -> impl fmt::Display + '_ {
    const SHOWN: usize = 100;
    kernel::str::BStr::from_bytes(word.get(..SHOWN).unwrap_or(word))
}

/// Reads a decimal number: digits only, no sign, below 2^64.
pub(super) fn parse_number(word: Word<'_>) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0u64, |number, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Why a table line is refused.
pub(super) struct Refusal<'a> {
    pub(super) error: CtrError,
    about: About<'a>,
}

/// What a refusal is about.
enum About<'a> {
    /// A word of the line.
    Word(Word<'a>),
    /// The number of words.
    Count(usize),
}

impl<'a> Refusal<'a> {
    pub(super) fn new(text: &'static CStr, word: Word<'a>) -> Self {
        Self {
            error: CtrError::invalid(text),
            about: About::Word(word),
        }
    }

    /// Names the argument in the kernel log, as `ti->error` can't.
    pub(super) fn log(self, device: DeviceName) -> CtrError {
        let text = self.error.text;
        match self.about {
            About::Word(word) => {
                pr_err!("{}: table refused: {}: {}\n", device, text, printable(word));
            }
            About::Count(count) => pr_err!("{}: table refused: {}: {}\n", device, text, count),
        }
        self.error
    }
}

impl From<GeometryError> for Refusal<'static> {
    fn from(error: GeometryError) -> Self {
        match error {
            GeometryError::Overflow => Self::new(c"Offset plus length overflows", b"offset"),
            GeometryError::RegionSize => Self::new(c"Invalid region size", b"region_size"),
            GeometryError::TooManyRegions => Self::new(
                c"Too many regions: region_size is too small",
                b"region_size",
            ),
        }
    }
}

/// A parsed table line.
pub(super) struct Table<'a> {
    pub(super) backing: &'a CStr,
    backing_offset: u64,
    pub(super) clone: &'a CStr,
    clone_offset: u64,
    pub(super) options: Options,
}

impl Table<'_> {
    /// Checks the layout for a target of `len` sectors at `begin` of the mapped device.
    pub(super) fn geometry(&self, begin: u64, len: u64) -> Result<Geometry, Refusal<'static>> {
        let region_size = self.options.region_size.unwrap_or(default_region_size(len));
        Geometry::new(
            begin,
            len,
            self.backing_offset,
            self.clone_offset,
            region_size,
        )
        .map_err(Refusal::from)
    }
}

/// Parses a table line; what is not given gets its default.
pub(super) fn parse<'a>(
    mut words: impl ExactSizeIterator<Item = &'a CStr>,
) -> Result<Table<'a>, Refusal<'a>> {
    let count = words.len();
    let (Some(backing), Some(backing_offset), Some(clone), Some(clone_offset)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refusal {
            error: CtrError::invalid(c"Invalid argument count"),
            about: About::Count(count),
        });
    };
    let backing_offset = sector(backing_offset.to_bytes())?;
    let clone_offset = sector(clone_offset.to_bytes())?;
    let options = features::parse(words.map(CStr::to_bytes))?;
    Ok(Table {
        backing,
        backing_offset,
        clone,
        clone_offset,
        options,
    })
}

fn sector(word: Word<'_>) -> Result<u64, Refusal<'_>> {
    parse_number(word).ok_or(Refusal::new(c"Invalid device sector", word))
}

#[kunit_tests(clone_rs_args)]
mod tests {
    use super::*;

    const BASE: [&CStr; 4] = [c"/dev/a", c"8", c"/dev/b", c"16"];

    #[test]
    fn numbers_are_digits_only() {
        assert_eq!(parse_number(b"0"), Some(0));
        assert_eq!(parse_number(b"007"), Some(7));
        assert_eq!(parse_number(b"18446744073709551615"), Some(u64::MAX));
        for word in [
            "",
            "-1",
            "+1",
            " 1",
            "1 ",
            "12x",
            "0x10",
            "18446744073709551616",
            "99999999999999999999999",
        ] {
            assert_eq!(parse_number(word.as_bytes()), None);
        }
        assert_eq!(parse_number(b"\xff"), None);
    }

    #[test]
    fn four_arguments_are_needed() {
        for count in 0..4 {
            assert!(parse(BASE.iter().copied().take(count)).is_err());
        }
        assert!(parse(BASE.iter().copied()).is_ok());
    }

    #[test]
    fn a_whole_line() -> Result {
        let [backing, backing_offset, clone, clone_offset] = BASE;
        let line = [
            backing,
            backing_offset,
            clone,
            clone_offset,
            c"2",
            c"mode",
            c"track",
        ];
        let table = parse(line.into_iter()).map_err(|_| EINVAL)?;
        assert_eq!((table.backing, table.backing_offset), (c"/dev/a", 8));
        assert_eq!((table.clone, table.clone_offset), (c"/dev/b", 16));
        assert_eq!(table.options.region_size, None);
        Ok(())
    }
}
