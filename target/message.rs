// SPDX-License-Identifier: GPL-2.0

//! What a message means, and does. None waits for I/O.

use super::{
    args::{parse_number, printable, Word},
    CloneTarget,
};
use crate::{abstractions::device_mapper::Args, rmw};
use kernel::{
    fmt,
    prelude::*, //
};

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    /// `copy <sector> <count>`, counted from the target's start.
    Copy { start: u64, count: u64 },
}

/// Why a message is refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal<'a> {
    Unknown(Word<'a>),
    WordCount(Word<'a>),
    NotANumber(Word<'a>),
    OutsideTarget { start: u64, count: u64 },
    Engine(rmw::Refused),
}

impl Refusal<'_> {
    /// What the ioctl returns.
    pub(super) fn errno(self) -> Error {
        match self {
            Self::Unknown(_)
            | Self::WordCount(_)
            | Self::NotANumber(_)
            | Self::OutsideTarget { .. }
            | Self::Engine(rmw::Refused::Unaligned) => EINVAL,
            Self::Engine(rmw::Refused::Suspended | rmw::Refused::Full) => EBUSY,
        }
    }
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => f.write_fmt(fmt!("there is no message {}", printable(word))),
            Self::WordCount(word) => {
                f.write_fmt(fmt!("{} has a wrong number of arguments", printable(word)))
            }
            Self::NotANumber(word) => f.write_fmt(fmt!("{} is not a number", printable(word))),
            Self::OutsideTarget { start, count } => {
                write!(
                    f,
                    "{count} sectors at sector {start} are not a range of the target"
                )
            }
            Self::Engine(rmw::Refused::Suspended) => write!(f, "the device is suspended"),
            Self::Engine(rmw::Refused::Unaligned) => {
                write!(
                    f,
                    "the range is not made of whole logical blocks of both devices"
                )
            }
            Self::Engine(rmw::Refused::Full) => write!(f, "too many ranges wait to be copied"),
        }
    }
}

/// Does what a message says. Context: process.
pub(super) fn handle<'a>(target: &CloneTarget, args: Args<'a>) -> Result<(), Refusal<'a>> {
    match parse(args.iter().map(CStr::to_bytes))? {
        Message::Copy { start, count } => {
            let range = target
                .geometry
                .range(start, count)
                .ok_or(Refusal::OutsideTarget { start, count })?;
            target.engine.copy(range).map_err(Refusal::Engine)
        }
    }
}

fn parse<'a>(mut words: impl Iterator<Item = Word<'a>>) -> Result<Message, Refusal<'a>> {
    let name = words.next().unwrap_or_default();
    let arguments = [words.next(), words.next(), words.next()];
    if !name.eq_ignore_ascii_case(b"copy") {
        return Err(Refusal::Unknown(name));
    }
    let [Some(start), Some(count), None] = arguments else {
        return Err(Refusal::WordCount(name));
    };
    let number = |word| parse_number(word).ok_or(Refusal::NotANumber(word));
    Ok(Message::Copy {
        start: number(start)?,
        count: number(count)?,
    })
}

#[kunit_tests(clone_rs_message)]
mod tests {
    use super::*;

    fn words(line: &str) -> impl Iterator<Item = Word<'_>> {
        line.split(' ').map(str::as_bytes)
    }

    #[test]
    fn copy_takes_a_range() {
        let copy = Ok(Message::Copy {
            start: 8,
            count: 16,
        });
        assert_eq!(parse(words("copy 8 16")), copy);
        assert_eq!(parse(words("COPY 8 16")), copy);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for line in ["", "start", "cop 8 16", "copyy 8 16", "8 16"] {
            assert!(matches!(parse(words(line)), Err(Refusal::Unknown(_))));
        }
        for line in ["copy", "copy 8", "copy 8 16 24", "copy 8 16 24 32"] {
            assert!(matches!(parse(words(line)), Err(Refusal::WordCount(_))));
        }
        for line in [
            "copy x 16",
            "copy 8 -16",
            "copy 8 18446744073709551616",
            "copy 8 ",
            "copy +8 1",
        ] {
            assert!(matches!(parse(words(line)), Err(Refusal::NotANumber(_))));
        }
    }
}
