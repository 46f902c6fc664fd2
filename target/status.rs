// SPDX-License-Identifier: GPL-2.0

//! What `dmsetup status`, `dmsetup table` and IMA get to see.

use super::CloneTarget;
use crate::{
    abstractions::device_mapper::Target,
    mapping::Mode,
    rmw::{Counters, Health, State},
};
use kernel::{fmt::Write, prelude::*};

/// `<state> <health> <mode> <region size> <in sync>/<total> <skipped> <copying>`, then the counters
/// and the tunables, each with the number of words that follow.
pub(super) fn info(target: &CloneTarget, text: &mut impl Write) -> kernel::fmt::Result {
    let progress = target.engine.progress();
    let geometry = &target.mapping.geometry;
    write!(
        text,
        "{} {} {} {} {}/{} {} {}",
        match progress.state {
            State::Idle => "idle",
            State::Copying => "copying",
            State::Paused => "paused",
            State::Verifying => "verifying",
            State::Complete => "complete",
        },
        match progress.health {
            Health::Ok => "ok",
            Health::Errors => "errors",
            Health::Detached => "detached",
        },
        mode_name(target.mapping.mode()),
        geometry.region_size(),
        progress.regions.in_sync,
        geometry.regions(),
        progress.regions.skipped,
        progress.regions.copying
    )?;
    let Counters {
        copied,
        zeroed,
        unchanged,
        bad,
        mismatched,
        recopied,
        read_errors,
        clone_errors,
    } = progress.counters;
    let (held, fallback) = target.mapping.counters();
    named(
        text,
        &[
            ("copied", copied),
            ("zeroed", zeroed),
            ("unchanged", unchanged),
            ("recopied", recopied),
            ("held", held),
            ("fallback", fallback),
            ("read_errors", read_errors),
            ("clone_errors", clone_errors),
            ("bad", bad),
            ("mismatched", mismatched),
            ("verified", progress.verified),
        ],
    )?;
    named(
        text,
        &[
            ("depth", progress.pipeline.depth.into()),
            ("batch", progress.pipeline.batch.into()),
            ("rate", progress.rate.into()),
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

/// The table line: both devices, and the feature arguments that are not defaults.
pub(super) fn table(target: &CloneTarget, text: &mut impl Write) -> kernel::fmt::Result {
    let geometry = &target.mapping.geometry;
    text.write_fmt(fmt!(
        "{} {} {} {}",
        *target.backing,
        geometry.backing_start(),
        *target.clone,
        geometry.clone_start()
    ))?;
    let progress = target.engine.progress();
    target
        .options
        .in_force(
            geometry,
            target.mapping.mode(),
            progress.pipeline,
            progress.rate,
        )
        .write(text)
}

/// The attributes that IMA measures when the table is loaded.
pub(super) fn ima(target: &CloneTarget, text: &mut impl Write) -> kernel::fmt::Result {
    let geometry = &target.mapping.geometry;
    let [major, minor, patch] = CloneTarget::VERSION;
    text.write_fmt(fmt!(
        "target_name=clone-rs,target_version={major}.{minor}.{patch},\
         backing_device_name={},backing_start={},clone_device_name={},clone_start={},\
         region_size={},mode={};",
        *target.backing,
        geometry.backing_start(),
        *target.clone,
        geometry.clone_start(),
        geometry.region_size(),
        mode_name(target.mapping.mode())
    ))
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Track => "track",
        Mode::Mirror => "mirror",
    }
}
