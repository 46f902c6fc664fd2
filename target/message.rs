// SPDX-License-Identifier: GPL-2.0

//! What a message means, and does. None waits for I/O.

use super::{
    args::{parse_number, printable, Word},
    features, CloneTarget,
};
use crate::{
    abstractions::device_mapper::{Args, Reply},
    mapping::Mode,
    rmw::{self, Pipeline},
};
use kernel::{
    fmt,
    prelude::*, //
};

/// A message. Ranges count from the target's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Start,
    Retry,
    Pause,
    Finish,
    Copy { start: u64, count: u64 },
    Skip { start: u64, count: u64 },
    Depth(u32),
    Batch(u32),
    Rate(u32),
    Mode(Mode),
    Verify,
    Errors,
}

/// Why a message is refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal<'a> {
    Unknown(Word<'a>),
    WordCount(Word<'a>),
    NotANumber(Word<'a>),
    /// The value of a tunable, and what it must be.
    Value(&'static CStr, Word<'a>),
    OutsideTarget {
        start: u64,
        count: u64,
    },
    Engine(rmw::Refused),
}

impl Refusal<'_> {
    /// What the ioctl returns.
    pub(super) fn errno(self) -> Error {
        match self {
            Self::Unknown(_)
            | Self::WordCount(_)
            | Self::NotANumber(_)
            | Self::Value(..)
            | Self::OutsideTarget { .. }
            | Self::Engine(rmw::Refused::NotStarted | rmw::Refused::Paused) => EINVAL,
            Self::Engine(rmw::Refused::Suspended | rmw::Refused::Detached | rmw::Refused::Full) => {
                EBUSY
            }
            Self::Engine(rmw::Refused::NoMemory) => ENOMEM,
        }
    }
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Unknown(word) => {
                return f.write_fmt(fmt!("there is no message {}", printable(word)))
            }
            Self::WordCount(word) => {
                return f.write_fmt(fmt!("{} has a wrong number of arguments", printable(word)))
            }
            Self::NotANumber(word) => {
                return f.write_fmt(fmt!("{} is not a number", printable(word)))
            }
            Self::Value(text, word) => return f.write_fmt(fmt!("{}: {}", text, printable(word))),
            Self::OutsideTarget { start, count } => {
                return write!(
                    f,
                    "{count} sectors at sector {start} are not a range of the target"
                )
            }
            Self::Engine(rmw::Refused::Suspended) => "the device is suspended",
            Self::Engine(rmw::Refused::Detached) => "the clone is detached",
            Self::Engine(rmw::Refused::Full) => "too many ranges wait to be copied",
            Self::Engine(rmw::Refused::NotStarted) => "nothing was started",
            Self::Engine(rmw::Refused::Paused) => "copying is paused",
            Self::Engine(rmw::Refused::NoMemory) => "there is no memory for it",
        };
        f.write_str(text)
    }
}

/// Does what a message says. Context: process.
pub(super) fn handle<'a>(
    target: &CloneTarget,
    args: Args<'a>,
) -> Result<Reply<CloneTarget>, Refusal<'a>> {
    let engine = &target.engine;
    let range = |start, count| {
        (target.mapping.geometry)
            .range(start, count)
            .ok_or(Refusal::OutsideTarget { start, count })
    };
    match parse(args.iter().map(CStr::to_bytes))? {
        Message::Start => {
            engine.start();
            Ok(())
        }
        Message::Retry => engine.retry(),
        Message::Pause => {
            engine.pause();
            Ok(())
        }
        Message::Finish => engine.finish(),
        Message::Copy { start, count } => engine.copy(range(start, count)?),
        Message::Skip { start, count } => engine.skip(range(start, count)?),
        Message::Depth(depth) => engine.tune(|pipeline| Pipeline { depth, ..pipeline }),
        Message::Batch(batch) => {
            target
                .check_batch(batch)
                .map_err(|text| Refusal::Value(text, b"batch"))?;
            engine.tune(|pipeline| Pipeline { batch, ..pipeline })
        }
        Message::Rate(rate) => {
            engine.set_rate(rate);
            Ok(())
        }
        Message::Mode(mode) => {
            target
                .check_mode(mode)
                .map_err(|text| Refusal::Value(text, b"mode"))?;
            engine.set_mode(mode)
        }
        Message::Verify => engine.verify(),
        Message::Errors => {
            return Ok(Reply::Answer(|target, text| {
                target.engine.write_errors(text)
            }))
        }
    }
    .map(|()| Reply::Done)
    .map_err(Refusal::Engine)
}

fn parse<'a>(mut words: impl Iterator<Item = Word<'a>>) -> Result<Message, Refusal<'a>> {
    let name = words.next().unwrap_or_default();
    let arguments = [words.next(), words.next(), words.next()];
    let count = Refusal::WordCount(name);
    let none = |message| match arguments {
        [None, ..] => Ok(message),
        _ => Err(count),
    };
    let one = |message: fn(u32) -> Message, read: ReadValue<'a>| match arguments {
        [Some(value), None, _] => match read(value) {
            Ok(value) => Ok(message(value)),
            Err(refusal) => Err(Refusal::Value(refusal.error.text, value)),
        },
        _ => Err(count),
    };
    let mode = || match arguments {
        [Some(value), None, _] => match features::mode(value) {
            Ok(mode) => Ok(Message::Mode(mode)),
            Err(refusal) => Err(Refusal::Value(refusal.error.text, value)),
        },
        _ => Err(count),
    };
    let range = |message: fn(u64, u64) -> Message| match arguments {
        [Some(start), Some(length), None] => {
            let number = |word| parse_number(word).ok_or(Refusal::NotANumber(word));
            Ok(message(number(start)?, number(length)?))
        }
        _ => Err(count),
    };
    let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
    if is(b"start") {
        none(Message::Start)
    } else if is(b"retry") {
        none(Message::Retry)
    } else if is(b"pause") {
        none(Message::Pause)
    } else if is(b"finish") {
        none(Message::Finish)
    } else if is(b"copy") {
        range(|start, count| Message::Copy { start, count })
    } else if is(b"skip") {
        range(|start, count| Message::Skip { start, count })
    } else if is(b"depth") {
        one(Message::Depth, features::depth)
    } else if is(b"batch") {
        one(Message::Batch, features::batch)
    } else if is(b"rate") {
        one(Message::Rate, features::rate)
    } else if is(b"mode") {
        mode()
    } else if is(b"verify") {
        none(Message::Verify)
    } else if is(b"errors") {
        none(Message::Errors)
    } else {
        Err(Refusal::Unknown(name))
    }
}

/// Reads the value of a tunable.
type ReadValue<'a> = fn(Word<'a>) -> Result<u32, super::args::Refusal<'a>>;

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
    fn names_are_read_without_regard_to_case() {
        for (line, message) in [
            ("start", Message::Start),
            ("START", Message::Start),
            ("Retry", Message::Retry),
            ("pause", Message::Pause),
            ("Finish", Message::Finish),
            ("skip 0 8", Message::Skip { start: 0, count: 8 }),
            ("depth 4", Message::Depth(4)),
            ("batch 16", Message::Batch(16)),
            ("rate 0", Message::Rate(0)),
            ("verify", Message::Verify),
            ("errors", Message::Errors),
        ] {
            assert_eq!(parse(words(line)), Ok(message));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for line in [
            "",
            "begin",
            "cop 8 16",
            "copyy 8 16",
            "8 16",
            "modes",
            "verified",
        ] {
            assert!(matches!(parse(words(line)), Err(Refusal::Unknown(_))));
        }
        for line in [
            "copy",
            "copy 8",
            "copy 8 16 24",
            "copy 8 16 24 32",
            "skip 8",
            "start now",
            "retry 1",
            "pause 1",
            "finish 1",
            "verify 1",
            "errors 1",
            "depth",
            "batch 8 8",
            "rate",
        ] {
            assert!(matches!(parse(words(line)), Err(Refusal::WordCount(_))));
        }
        for line in [
            "copy x 16",
            "copy 8 -16",
            "copy 8 18446744073709551616",
            "copy 8 ",
            "copy +8 1",
            "skip 8 x",
        ] {
            assert!(matches!(parse(words(line)), Err(Refusal::NotANumber(_))));
        }
        for line in [
            "depth 0",
            "depth 257",
            "batch 12",
            "batch x",
            "rate -1",
            "rate 4294967296",
        ] {
            assert!(matches!(parse(words(line)), Err(Refusal::Value(..))));
        }
    }
}
