// SPDX-License-Identifier: GPL-2.0

//! What the values of feature arguments may be; those of tunables come in messages, too.

use crate::{
    mapping::{
        geometry::{MAX_REGION_SIZE, MIN_REGION_SIZE},
        Mode,
    },
    rmw::{OnCloneError, OnReadError, Pipeline},
    target::args::{parse_number, Refusal, Word},
};
use kernel::prelude::*;

/// Which of some words it is, without regard to case.
fn which(value: Word<'_>, words: &[&str]) -> Option<usize> {
    words
        .iter()
        .position(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

/// What `depth` may be, in a table line and in a message.
pub(in crate::target) fn depth(value: Word<'_>) -> Result<u32, Refusal<'_>> {
    bounded(value, 1, Pipeline::MAX_DEPTH, 1)
        .ok_or(Refusal::new(c"depth must be from 1 to 256", value))
}

/// What `batch` may be.
pub(in crate::target) fn batch(value: Word<'_>) -> Result<u32, Refusal<'_>> {
    let unit = Pipeline::BATCH_UNIT;
    bounded(value, unit, Pipeline::MAX_BATCH, unit).ok_or(Refusal::new(
        c"batch must be a multiple of 8 from 8 to 16384",
        value,
    ))
}

/// What `rate` may be.
pub(in crate::target) fn rate(value: Word<'_>) -> Result<u32, Refusal<'_>> {
    bounded(value, 0, u32::MAX, 1).ok_or(Refusal::new(
        c"rate must be a number of KiB a second below 2^32",
        value,
    ))
}

fn bounded(value: Word<'_>, min: u32, max: u32, unit: u32) -> Option<u32> {
    let number = u32::try_from(parse_number(value)?).ok()?;
    ((min..=max).contains(&number) && number % unit == 0).then_some(number)
}

/// What `region_size` may be.
pub(super) fn region_size(value: Word<'_>) -> Result<u64, Refusal<'_>> {
    let text = match parse_number(value) {
        None => c"region_size must be a number of sectors",
        Some(0) => c"region_size must not be 0",
        Some(size) if size < MIN_REGION_SIZE => c"region_size must be at least 8 sectors",
        Some(size) if !size.is_power_of_two() => c"region_size must be a power of two",
        Some(size) if size > MAX_REGION_SIZE => c"region_size must be at most 2097152 sectors",
        Some(size) => return Ok(size),
    };
    Err(Refusal::new(text, value))
}

/// What `mode` may be.
pub(in crate::target) fn mode(value: Word<'_>) -> Result<Mode, Refusal<'_>> {
    match which(value, &["track", "mirror", "snapshot"]) {
        Some(0) => Ok(Mode::Track),
        Some(1) => Ok(Mode::Mirror),
        Some(_) => Err(Refusal::new(c"Mode snapshot is not supported yet", value)),
        None => Err(Refusal::new(
            c"mode must be track, mirror or snapshot",
            value,
        )),
    }
}

/// What `on_read_error` may be.
pub(super) fn on_read_error(value: Word<'_>) -> Result<OnReadError, Refusal<'_>> {
    match which(value, &["stop", "skip"]) {
        Some(0) => Ok(OnReadError::Stop),
        Some(_) => Ok(OnReadError::Skip),
        None => Err(Refusal::new(c"on_read_error must be stop or skip", value)),
    }
}

/// What `on_clone_error` may be.
pub(super) fn on_clone_error(value: Word<'_>) -> Result<OnCloneError, Refusal<'_>> {
    match which(value, &["detach", "stop"]) {
        Some(0) => Ok(OnCloneError::Detach),
        Some(_) => Ok(OnCloneError::Stop),
        None => Err(Refusal::new(
            c"on_clone_error must be detach or stop",
            value,
        )),
    }
}

/// What `final` may be.
pub(super) fn final_regions(value: Word<'_>) -> Result<u32, Refusal<'_>> {
    bounded(value, 0, u32::MAX, 1).ok_or(Refusal::new(
        c"final must be a number of regions below 2^32",
        value,
    ))
}
