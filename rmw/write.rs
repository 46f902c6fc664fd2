// SPDX-License-Identifier: GPL-2.0

//! The second leg: from the job's memory to the clone device.

use super::{
    complete,
    job::{Action, Job, Ready},
};
use crate::{abstractions::bio::Status, mapping::geometry::Blocks};
use kernel::error::Error;

/// Begins to write the job's part. One that is less than a block of the clone is put into what that
/// has, which was read, and the whole block is written. It is not plugged, as reads are: it ends
/// alone, and is as long as a job's memory. Context: process, may wait for a request.
pub(super) fn submit(mut job: Job<Ready>) {
    let (run, part) = (job.run, job.state.part);
    let mapping = &job.engine.mapping;
    let clone = &mapping.legs.clone;
    let Blocks {
        sector, sectors, ..
    } = mapping.geometry.clone_blocks(part.range);
    let (place, half) = (job.place(part.range), job.slot.half());
    let merged = job.merges().then(|| job.place_on_clone(part.range));
    let bio = job.slot.as_mut().bio_mut();
    let prepared = match (part.action, merged) {
        (Action::Zero, None) => bio.prepare_zeroes(clone, sector, sectors),
        (_, None) => bio.prepare_write(clone, sector, (place, sectors)),
        (_, Some(to)) => {
            bio.memory_mut().copy(place, to, part.range.len());
            bio.prepare_write(clone, sector, (half, sectors))
        }
    };
    match prepared {
        Ok(()) => {
            bio.set_priority(run.priority);
            job.submit_write();
        }
        Err(error) => complete::write_failed(job, Error::to_errno(error)),
    }
}

/// The part was not written. What a clone says that it can't do is no error of it: SCSI disks are
/// known to be able to write zeroes only when they have done it.
pub(super) fn failed(job: Job<Ready>, status: Status) {
    let unable = [Status::NOT_SUPPORTED, Status::INVALID, Status::TARGET].contains(&status);
    if job.state.part.action == Action::Zero && unable {
        job.engine.zeroes_refused();
        if job.engine.is_barred() {
            return complete::put_back(job);
        }
        return submit(job.with_data());
    }
    complete::write_failed(job, status.to_errno());
}
