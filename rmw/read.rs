// SPDX-License-Identifier: GPL-2.0

//! The first leg: from the backing device into the job's memory, and what the clone has beside it
//! where that is to be compared.

use super::{
    complete,
    engine::OnReadError,
    job::{self, Claimed, Fetched, Job},
    write,
};
use crate::abstractions::bio::Status;
use kernel::error::Error;

/// Begins to read the job's piece. Context: process, may wait for a request.
pub(super) fn submit(mut job: Job<Claimed>) {
    let run = job.run;
    let mapping = &job.engine.mapping;
    let sector = mapping.geometry.backing_sector(run.piece);
    let bio = job.slot.as_mut().bio_mut();
    match bio.prepare_read(&mapping.legs.backing, sector, (0, run.piece.len())) {
        Ok(()) => {
            bio.set_priority(run.priority);
            job.submit_read();
        }
        Err(error) => complete::read_failed(job, Error::to_errno(error)),
    }
}

/// Begins to read what the clone has of the piece. Nobody else writes there: the regions are
/// claimed. Context: process, may wait for a request.
pub(super) fn submit_clone(mut job: Job<Fetched>) {
    let run = job.run;
    let mapping = &job.engine.mapping;
    let sector = mapping.geometry.clone_sector(run.piece);
    let half = job.slot.half();
    let bio = job.slot.as_mut().bio_mut();
    match bio.prepare_read(&mapping.legs.clone, sector, (half, run.piece.len())) {
        Ok(()) => {
            bio.set_priority(run.priority);
            job.submit_read();
        }
        Err(_) => job::filled(job.filled(false)),
    }
}

/// The piece could not be read. With `on_read_error skip` that is narrowed down to logical blocks
/// (of the device with the larger ones, as all else is to be written), unless it is not the
/// medium's fault.
pub(super) fn failed(mut job: Job<Claimed>, status: Status) {
    let errno = status.to_errno();
    let skips = job.engine.policy.on_read_error == OnReadError::Skip;
    if !skips || [Status::OFFLINE, Status::TRANSPORT].contains(&status) {
        return complete::read_failed(job, errno);
    }
    if job.engine.is_barred() || job.engine.has_paused() {
        return complete::put_back(job);
    }
    let piece = job.run.piece;
    let block = job.engine.mapping.legs.block.into();
    if !job.run.narrow.failed(piece.len(), piece.end(), block) {
        return submit(job.with_less());
    }
    complete::found_bad(&mut job, errno);
    if !job.engine.policy.fill_bad {
        return job::go_on_with(job.next_piece());
    }
    job.slot.as_mut().bio_mut().memory_mut().clear(piece.len());
    write::submit(job.ready_to_fill());
}
