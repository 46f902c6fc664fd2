// SPDX-License-Identifier: GPL-2.0

//! The first leg: from the backing device into the job's memory.

use super::{
    complete,
    job::{Claimed, Job},
};
use kernel::error::Error;

/// Begins to read the job's run. Context: process, may wait for a request.
pub(super) fn submit(mut job: Job<Claimed>) {
    let engine = &job.engine;
    let sector = engine.geometry().backing_sector(job.run);
    let bio = job.slot.as_mut().bio_mut();
    match bio.prepare_read(engine.backing(), sector, job.run.len()) {
        Ok(()) => job.submit_read(),
        Err(error) => complete::read_failed(job, Error::to_errno(error)),
    }
}
