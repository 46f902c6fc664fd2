// SPDX-License-Identifier: GPL-2.0

//! The end of a job: its regions get their state, it is accounted for, its slot goes home. Context:
//! process.

use super::{
    engine::{Engine, OnCloneError, OnReadError, Shared},
    errors::Side,
    job::{Action, Bad, Claimed, Fetched, Job, Part, Ready},
};
use crate::{
    abstractions::bio::{Op, Priority},
    mapping::{geometry::Range, region::Claim},
};
use kernel::{prelude::*, sync::Arc};

/// The part is on the clone device (though perhaps in its cache). This is recorded before its
/// regions can count as in sync. What was found there may be in the cache, too.
pub(super) fn account(job: &Job<Ready>) {
    let Part { range, action } = job.state.part;
    job.engine.mapping.mark_unflushed(range);
    let mut shared = job.engine.shared.lock();
    shared.wrote = true;
    let counters = &mut shared.counters;
    match action {
        Action::Zero => counters.zeroed += range.len(),
        Action::Keep => counters.unchanged += range.len(),
        Action::Write => {
            counters.copied += range.len();
            if !job.run.claim.fresh {
                counters.recopied += range.len();
            }
        }
        // It was counted when it was found.
        Action::Fill => {}
    }
}

/// All of the run is, but what can't be read.
pub(super) fn copied(job: Job<Claimed>) {
    match job.run.bad {
        Some(bad) => {
            if let Some(claim) = end_up_to(&job, bad) {
                give_back(&job, claim);
            }
        }
        None => give_back(&job, job.run.claim),
    }
    end(job);
}

/// Regions were copied as far as the job knows.
fn give_back(job: &Job<Claimed>, claim: Claim) {
    let mapping = &job.engine.mapping;
    // Else a loss that comes after this finds the marks of all pieces, and makes their regions
    // dirty.
    if mapping.losses() == job.run.losses {
        mapping.copied(claim);
    } else {
        mapping.regions.put_back(claim);
        job.engine.shared.lock().plan.look_again();
    }
}

/// The job has passed the region that something could not be read of: that one is put aside, those
/// before it were copied. Returns what the job has after it.
fn end_up_to(job: &Job<Claimed>, bad: Bad) -> Option<Claim> {
    let (before, one, after) = job.run.claim.split_around(bad.region);
    if let Some(before) = before {
        give_back(job, before);
    }
    put_aside(job, one, bad.retries);
    after
}

/// Regions are put aside, unless what is bad was to be tried again since `retries` was read: in one
/// step with that question, so that they are put aside before that, and released by it, or not at
/// all.
fn put_aside(job: &Job<Claimed>, claim: Claim, retries: u64) {
    let mut shared = job.engine.shared.lock();
    let regions = &job.engine.mapping.regions;
    if shared.retries == retries {
        regions.put_aside(claim);
    } else {
        regions.put_back(claim);
        shared.plan.look_again();
    }
}

/// The piece is a logical block that can't be read.
pub(super) fn found_bad(job: &mut Job<Claimed>, errno: c_int) {
    let piece = job.run.piece;
    let region = job.engine.mapping.geometry.region_of(piece.start());
    if let Some(passed) = job.run.bad.filter(|passed| passed.region != region) {
        // There is something after it: where the job is.
        if let Some(claim) = end_up_to(job, passed) {
            job.run.claim = claim;
        }
    }
    let retries = {
        let mut shared = job.engine.shared.lock();
        shared.counters.bad += piece.len();
        shared.retries
    };
    // Of a region with several bad blocks the first one counts.
    let bad = job.run.bad.filter(|bad| bad.region == region);
    job.run.bad = Some(bad.unwrap_or(Bad { region, retries }));
    record(&job.engine, Side::Backing, Op::Read, piece, errno);
}

/// The job may not go on; its regions wait again.
pub(super) fn put_back<State>(job: Job<State>) {
    job.engine.mapping.regions.put_back(job.run.claim);
    job.engine.shared.lock().plan.look_again();
    end(job);
}

/// The piece could not be read, and nothing more is tried.
pub(super) fn read_failed(job: Job<Claimed>, errno: c_int) {
    let retries = job.engine.shared.lock().retries;
    record(&job.engine, Side::Backing, Op::Read, job.run.piece, errno);
    match job.engine.policy.on_read_error {
        OnReadError::Stop => job.engine.mapping.regions.put_back(job.run.claim),
        OnReadError::Skip => put_aside(&job, job.run.claim, retries),
    }
    end(job);
}

/// The part could not be written.
pub(super) fn write_failed(job: Job<Ready>, errno: c_int) {
    let Part { range, action } = job.state.part;
    let op = match action {
        Action::Zero => Op::WriteZeroes,
        Action::Write | Action::Keep | Action::Fill => Op::Write,
    };
    clone_failed(op, range, job, errno);
}

/// What the clone has could not be read, without which the piece can't be written.
pub(super) fn merge_failed(job: Job<Fetched>, errno: c_int) {
    clone_failed(Op::Read, job.run.piece, job, errno);
}

fn clone_failed<State>(op: Op, range: Range, job: Job<State>, errno: c_int) {
    record(&job.engine, Side::Clone, op, range, errno);
    job.engine.mapping.regions.put_back(job.run.claim);
    end(job);
}

fn end<State>(job: Job<State>) {
    match job.run.hold {
        // The regions are given back: what waited for them is admitted anew.
        Some(number) => {
            let mapping = &job.engine.mapping;
            job.engine.shared.lock().end_hold(mapping, number);
        }
        None if job.run.priority == Priority::BestEffort => {
            job.engine.shared.lock().urgent_job = false;
        }
        None => {}
    }
    job.engine.put_home(job.slot);
}

/// A piece of a job has failed, or what a user's bio asked of the clone. Its regions are
/// given back after this: who sees that no job is in flight any more sees all errors, too. Context:
/// process.
pub(super) fn record(engine: &Arc<Engine>, side: Side, op: Op, piece: Range, errno: c_int) {
    let mapping = &engine.mapping;
    let (device, sector) = match side {
        Side::Backing => (
            &mapping.legs.backing,
            mapping.geometry.backing_sector(piece),
        ),
        Side::Clone => (&mapping.legs.clone, mapping.geometry.clone_sector(piece)),
    };
    if engine.may_log() {
        pr_err!(
            "{}: copy: {} of {} sectors at sector {} of {} failed with {}\n",
            engine.name,
            op.name(),
            piece.len(),
            sector,
            **device,
            errno
        );
    }
    failed(engine, side, |shared| {
        shared.errors.add(side, errno, piece.start(), piece.len());
        let counter = match side {
            Side::Backing => &mut shared.counters.read_errors,
            Side::Clone => &mut shared.counters.clone_errors,
        };
        *counter += piece.len();
    });
}

/// Something is wrong, which `account` records; copying goes on as it did.
pub(super) fn noted(engine: &Engine, account: impl FnOnce(&mut Shared)) {
    let first = {
        let mut shared = engine.shared.lock();
        account(&mut shared);
        !core::mem::replace(&mut shared.failed, true)
    };
    if first {
        engine.mapped_device.raise_event();
    }
}

/// Something has failed, which `account` records: copying goes on or not as it was told to.
pub(super) fn failed(engine: &Arc<Engine>, side: Side, account: impl FnOnce(&mut Shared)) {
    let policy = engine.policy;
    let failing = engine.failing.lock();
    let (first, detached) = {
        let mut shared = engine.shared.lock();
        account(&mut shared);
        let first = !core::mem::replace(&mut shared.failed, true);
        let goes_on = side == Side::Backing && policy.on_read_error == OnReadError::Skip;
        let detach = side == Side::Clone && policy.on_clone_error == OnCloneError::Detach;
        if !goes_on {
            shared.pause();
        }
        if detach {
            shared.plan.clear();
        }
        (first, detach && engine.mapping.detach())
    };
    if detached {
        engine.suspect_unflushed();
        engine.mapping.end_waiting();
    }
    drop(failing);
    if detached {
        pr_err!(
            "{}: clone device {} is detached\n",
            engine.name,
            *engine.mapping.legs.clone
        );
    }
    if first || detached {
        engine.mapped_device.raise_event();
    }
}
