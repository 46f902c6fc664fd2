// SPDX-License-Identifier: GPL-2.0

//! What `dmsetup status`, `dmsetup table` and IMA get to see.

use super::{features::Options, CloneTarget};
use crate::{abstractions::device_mapper::Target, rmw::Progress};
use kernel::{fmt::Write, prelude::*};

/// `<state> <health> <mode> <region size> <in sync>/<total> <skipped> <copying>`, then the counters
/// and the tunables, each with the number of words that follow.
pub(super) fn info(target: &CloneTarget, text: &mut impl Write) -> kernel::fmt::Result {
    let progress = target.engine.progress();
    // Until writes are tracked, nothing is claimed in sync.
    write!(
        text,
        "{} {} track {} 0/{} 0 {}",
        state(&progress),
        health(&progress),
        target.geometry.region_size(),
        target.geometry.regions(),
        progress.copying
    )?;
    named(
        text,
        &[
            ("copied", progress.copied),
            ("queued", progress.queued),
            ("read_errors", progress.read_errors),
            ("clone_errors", progress.clone_errors),
        ],
    )?;
    let pipeline = target.engine.pipeline();
    named(
        text,
        &[
            ("depth", pipeline.depth.into()),
            ("batch", pipeline.batch.into()),
        ],
    )
}

fn named(text: &mut impl Write, values: &[(&str, u64)]) -> kernel::fmt::Result {
    write!(text, " {}", values.len() * 2)?;
    for (name, value) in values {
        write!(text, " {name} {value}")?;
    }
    Ok(())
}

fn state(progress: &Progress) -> &'static str {
    if progress.queued > 0 {
        "copying"
    } else {
        "idle"
    }
}

fn health(progress: &Progress) -> &'static str {
    if progress.read_errors > 0 || progress.clone_errors > 0 {
        "errors"
    } else {
        "ok"
    }
}

/// The table line: both devices, and the feature arguments that are not defaults.
pub(super) fn table(target: &CloneTarget, text: &mut impl Write) -> kernel::fmt::Result {
    let geometry = &target.geometry;
    text.write_fmt(fmt!(
        "{} {} {} {}",
        *target.backing,
        geometry.backing_start(),
        *target.clone,
        geometry.clone_start()
    ))?;
    Options::in_force(geometry, target.engine.pipeline()).write(text)
}

/// The attributes that IMA measures when the table is loaded.
pub(super) fn ima(target: &CloneTarget, text: &mut impl Write) -> kernel::fmt::Result {
    let geometry = &target.geometry;
    let [major, minor, patch] = CloneTarget::VERSION;
    text.write_fmt(fmt!(
        "target_name=clone-rs,target_version={major}.{minor}.{patch},\
         backing_device_name={},backing_start={},clone_device_name={},clone_start={},\
         region_size={},mode=track;",
        *target.backing,
        geometry.backing_start(),
        *target.clone,
        geometry.clone_start(),
        geometry.region_size()
    ))
}
