// SPDX-License-Identifier: GPL-2.0

//! The end of a job: its regions get their state, it is accounted for, its slot goes home. Context:
//! process.

use super::{
    engine::{Engine, OnCloneError, OnReadError, Shared},
    errors::Side,
    job::{Claimed, Job, Ready},
};
use crate::abstractions::bio::Priority;
use kernel::{prelude::*, sync::Arc};

/// The piece is on the clone device (though perhaps in its cache). This is recorded before its
/// regions can count as in sync.
pub(super) fn wrote(job: &Job<Ready>) {
    let piece = job.run.piece;
    let mut shared = job.engine.shared.lock();
    shared.unflushed.mark(piece);
    shared.counters.copied += piece.len();
    if !job.run.claim.fresh {
        shared.counters.recopied += piece.len();
    }
}

/// All of the run is.
pub(super) fn copied(job: Job<Ready>) {
    // Else a loss that comes after this finds the marks of all pieces, and makes their regions
    // dirty.
    if job.engine.shared.lock().losses != job.run.losses {
        return put_back(job);
    }
    job.engine.mapping.regions.copied(job.run.claim);
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
    record(&job, Side::Backing, errno);
    let regions = &job.engine.mapping.regions;
    match job.engine.policy.on_read_error {
        OnReadError::Stop => regions.put_back(job.run.claim),
        OnReadError::Skip => regions.put_aside(job.run.claim),
    }
    end(job);
}

/// The piece could not be written.
pub(super) fn write_failed(job: Job<Ready>, errno: c_int) {
    record(&job, Side::Clone, errno);
    job.engine.mapping.regions.put_back(job.run.claim);
    end(job);
}

fn end<State>(job: Job<State>) {
    if job.run.priority == Priority::BestEffort {
        job.engine.shared.lock().urgent_job = false;
    }
    job.engine.put_home(job.slot);
}

/// The job has failed. Its regions are given back after this: who sees that no job is in flight any
/// more sees all errors, too.
fn record<State>(job: &Job<State>, side: Side, errno: c_int) {
    let (what, device, sector) = match side {
        Side::Backing => {
            let sector = job.engine.mapping.geometry.backing_sector(job.run.piece);
            ("read", &job.engine.backing, sector)
        }
        Side::Clone => {
            let sector = job.engine.mapping.geometry.clone_sector(job.run.piece);
            ("write", &job.engine.clone, sector)
        }
    };
    if job.engine.may_log() {
        pr_err!(
            "{}: copy: {} of {} sectors at sector {} of {} failed with {}\n",
            job.engine.name,
            what,
            job.run.piece.len(),
            sector,
            **device,
            errno
        );
    }
    failed(&job.engine, side, |shared| {
        let piece = job.run.piece;
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
        let detached = detach && !core::mem::replace(&mut shared.detached, true);
        shared.losses += u64::from(detached);
        (first, detached)
    };
    if detached {
        pr_err!(
            "{}: clone device {} is detached\n",
            engine.name,
            *engine.clone
        );
        engine.suspect_unflushed();
    }
    if first || detached {
        engine.mapped_device.raise_event();
    }
}
