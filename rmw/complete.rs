// SPDX-License-Identifier: GPL-2.0

//! The end of a job: its regions get their state, it is accounted for, its slot goes home. Context:
//! process.

use super::{
    engine::{Engine, OnCloneError, OnReadError, Shared},
    errors::Side,
    job::{Claimed, Job, Ready},
};
use crate::{abstractions::bio::Priority, mapping::geometry::Range};
use kernel::{prelude::*, sync::Arc};

/// The piece is on the clone device (though perhaps in its cache). This is recorded before its
/// regions can count as in sync.
pub(super) fn wrote(job: &Job<Ready>) {
    let piece = job.run.piece;
    job.engine.mapping.mark_unflushed(piece);
    let mut shared = job.engine.shared.lock();
    shared.counters.copied += piece.len();
    if !job.run.claim.fresh {
        shared.counters.recopied += piece.len();
    }
}

/// All of the run is.
pub(super) fn copied(job: Job<Ready>) {
    // Else a loss that comes after this finds the marks of all pieces, and makes their regions
    // dirty.
    if job.engine.mapping.losses() != job.run.losses {
        return put_back(job);
    }
    job.engine.mapping.copied(job.run.claim);
    end(job);
}

/// The job may not go on; its regions wait again.
pub(super) fn put_back<State>(job: Job<State>) {
    job.engine.mapping.regions.put_back(job.run.claim);
    job.engine.shared.lock().plan.look_again();
    end(job);
}

/// The piece could not be read.
pub(super) fn read_failed(job: Job<Claimed>, errno: c_int) {
    record(&job.engine, Side::Backing, job.run.piece, errno);
    let regions = &job.engine.mapping.regions;
    match job.engine.policy.on_read_error {
        OnReadError::Stop => regions.put_back(job.run.claim),
        OnReadError::Skip => regions.put_aside(job.run.claim),
    }
    end(job);
}

/// The piece could not be written.
pub(super) fn write_failed(job: Job<Ready>, errno: c_int) {
    record(&job.engine, Side::Clone, job.run.piece, errno);
    job.engine.mapping.regions.put_back(job.run.claim);
    end(job);
}

fn end<State>(job: Job<State>) {
    match job.run.hold {
        // The regions are given back: what waited for them is admitted anew.
        Some(number) => {
            let mut shared = job.engine.shared.lock();
            if job.engine.mapping.end_hold(number) {
                shared.hold_ends = None;
            }
        }
        None if job.run.priority == Priority::BestEffort => {
            job.engine.shared.lock().urgent_job = false;
        }
        None => {}
    }
    job.engine.put_home(job.slot);
}

/// A piece of a job has failed, or a user's write to the clone. Its regions are given back after
/// this: who sees that no job is in flight any more sees all errors, too. Context: process.
pub(super) fn record(engine: &Arc<Engine>, side: Side, piece: Range, errno: c_int) {
    let mapping = &engine.mapping;
    let (what, device, sector) = match side {
        Side::Backing => {
            let sector = mapping.geometry.backing_sector(piece);
            ("read", &mapping.legs.backing, sector)
        }
        Side::Clone => {
            let sector = mapping.geometry.clone_sector(piece);
            ("write", &mapping.legs.clone, sector)
        }
    };
    if engine.may_log() {
        pr_err!(
            "{}: copy: {} of {} sectors at sector {} of {} failed with {}\n",
            engine.name,
            what,
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

/// Something has failed, which `account` records: copying goes on or not as it was told to.
pub(super) fn failed(engine: &Arc<Engine>, side: Side, account: impl FnOnce(&mut Shared)) {
    let policy = engine.policy;
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
        (first, detach)
    };
    let detached = detached && engine.mapping.detach();
    if detached {
        pr_err!(
            "{}: clone device {} is detached\n",
            engine.name,
            *engine.mapping.legs.clone
        );
        engine.suspect_unflushed();
        engine.mapping.end_waiting();
    }
    if first || detached {
        engine.mapped_device.raise_event();
    }
}
