// SPDX-License-Identifier: GPL-2.0

//! The end of a job: it is accounted for, and its slot goes home. Context: process.

use super::{
    engine::Outcome,
    job::{Claimed, Filled, Job},
};
use crate::abstractions::block::BlockDevice;
use kernel::prelude::*;

/// The run is on the clone device (though perhaps in its cache).
pub(super) fn copied(job: Job<Filled>) {
    end(job, Outcome::Copied);
}

/// The run could not be read.
pub(super) fn read_failed(job: Job<Claimed>, errno: c_int) {
    let sector = job.engine.geometry().backing_sector(job.run);
    log(&job, "read", job.engine.backing(), sector, errno);
    end(job, Outcome::ReadError);
}

/// The run could not be written.
pub(super) fn write_failed(job: Job<Filled>, errno: c_int) {
    let sector = job.engine.geometry().clone_sector(job.run);
    log(&job, "write", job.engine.clone_device(), sector, errno);
    end(job, Outcome::CloneError);
}

/// The job may not go on; its run waits again.
pub(super) fn put_back(job: Job<Claimed>) {
    job.engine.put_back(job.run);
    job.engine.put_home(job.slot);
}

fn end<State>(job: Job<State>, outcome: Outcome) {
    job.engine.account(job.run, outcome);
    job.engine.put_home(job.slot);
}

fn log<State>(job: &Job<State>, what: &str, device: &BlockDevice, sector: u64, errno: c_int) {
    if job.engine.may_log() {
        pr_err!(
            "{}: copy: {} of {} sectors at sector {} of {} failed with {}\n",
            job.engine.name(),
            what,
            job.run.len(),
            sector,
            device,
            errno
        );
    }
}
