// SPDX-License-Identifier: GPL-2.0

//! The second leg: from the job's memory to the clone device.

use super::{
    complete,
    job::{Job, Ready},
};
use kernel::error::Error;

/// Begins to write the job's piece. Context: process, may wait for a request.
pub(super) fn submit(mut job: Job<Ready>) {
    let run = job.run;
    let sector = job.engine.mapping.geometry.clone_sector(run.piece);
    let bio = job.slot.as_mut().bio_mut();
    match bio.prepare_write(&job.engine.mapping.legs.clone, sector, run.piece.len()) {
        Ok(()) => {
            bio.set_priority(run.priority);
            job.submit_write();
        }
        Err(error) => complete::write_failed(job, Error::to_errno(error)),
    }
}
