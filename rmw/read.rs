// SPDX-License-Identifier: GPL-2.0

//! The first leg: from the backing device into the job's memory, and what the clone has beside it
//! where that is to be compared.

use super::{
    complete,
    engine::OnReadError,
    job::{self, Claimed, Fetched, Job},
};
use crate::abstractions::bio::Status;
use kernel::error::Error;

/// Begins to read the job's piece, as whole logical blocks. Context: process, may wait for a
/// request.
pub(super) fn submit(mut job: Job<Claimed>) {
    let run = job.run;
    let mapping = &job.engine.mapping;
    let blocks = mapping.geometry.backing_blocks(run.piece);
    let bio = job.slot.as_mut().bio_mut();
    match bio.prepare_read(&mapping.legs.backing, blocks.sector, (0, blocks.sectors)) {
        Ok(()) => {
            bio.set_priority(run.priority);
            job.submit_read();
        }
        Err(error) => complete::read_failed(job, Error::to_errno(error)),
    }
}

/// Begins to read what the clone has of the piece, as whole logical blocks. Nobody else writes
/// there: the regions are claimed, and no block belongs to two. Context: process, may wait for a
/// request.
pub(super) fn submit_clone(mut job: Job<Fetched>) {
    let run = job.run;
    let mapping = &job.engine.mapping;
    let blocks = mapping.geometry.clone_blocks(run.piece);
    let half = job.slot.half();
    let bio = job.slot.as_mut().bio_mut();
    match bio.prepare_read(&mapping.legs.clone, blocks.sector, (half, blocks.sectors)) {
        Ok(()) => {
            bio.set_priority(run.priority);
            job.submit_read();
        }
        Err(_) => clone_failed(job, Status::IO_ERROR),
    }
}

/// What the clone has could not be read. Where it was to be compared all is written, which is how a
/// disk repairs what it can't read; a part of a block can't be.
pub(super) fn clone_failed(job: Job<Fetched>, status: Status) {
    if job.merges() {
        complete::merge_failed(job, status.to_errno());
    } else {
        job::filled(job.filled(false));
    }
}

/// The piece could not be read. With `on_read_error skip` that is narrowed down to logical blocks,
/// unless it is not the medium's fault.
pub(super) fn failed(mut job: Job<Claimed>, status: Status) {
    let errno = status.to_errno();
    let skips = job.engine.policy.on_read_error == OnReadError::Skip;
    if !skips || !status.is_about_medium() {
        return complete::read_failed(job, errno);
    }
    if job.engine.is_barred() || job.engine.has_paused() {
        return complete::put_back(job);
    }
    let piece = job.run.piece;
    let geometry = &job.engine.mapping.geometry;
    let read = geometry.backing_blocks(piece).sectors;
    if !(job.run.narrow).failed(read, piece.end(), geometry.backing_block()) {
        return submit(job.with_less());
    }
    complete::found_bad(&mut job, errno);
    if job.engine.policy.fill_bad {
        job.fill();
    } else {
        job::go_on_with(job.next_piece());
    }
}
