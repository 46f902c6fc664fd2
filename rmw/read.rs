// SPDX-License-Identifier: GPL-2.0

//! The first leg: from the backing device into the job's memory.

use super::{
    complete,
    job::{Claimed, Job},
};
use kernel::error::Error;

/// Begins to read the job's piece. Context: process, may wait for a request.
pub(super) fn submit(mut job: Job<Claimed>) {
    let run = job.run;
    let sector = job.engine.mapping.geometry.backing_sector(run.piece);
    let bio = job.slot.as_mut().bio_mut();
    match bio.prepare_read(&job.engine.mapping.legs.backing, sector, run.piece.len()) {
        Ok(()) => {
            bio.set_priority(run.priority);
            job.submit_read();
        }
        Err(error) => complete::read_failed(job, Error::to_errno(error)),
    }
}
