// SPDX-License-Identifier: GPL-2.0

//! The second leg: from the job's memory to the clone device.

use super::{
    complete,
    job::{Filled, Job},
};
use kernel::error::Error;

/// Begins to write the job's run. Context: process, may wait for a request.
pub(super) fn submit(mut job: Job<Filled>) {
    let engine = &job.engine;
    let sector = engine.geometry().clone_sector(job.run);
    let bio = job.slot.as_mut().bio_mut();
    match bio.prepare_write(engine.clone_device(), sector, job.run.len()) {
        Ok(()) => job.submit_write(),
        Err(error) => complete::write_failed(job, Error::to_errno(error)),
    }
}
