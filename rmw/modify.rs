// SPDX-License-Identifier: GPL-2.0

//! Between the legs: what was read is changed, or found not to need writing.

mod copy;

use super::job::{Filled, Job, Ready};

/// A filling of the stage.
///
/// It has the job's memory for itself, and says by its result what is to be written. Context: the
/// engine's worker.
trait Modify {
    /// Changes what is in the job's memory.
    fn modify(&self, job: Job<Filled>) -> Job<Ready>;
}

/// Does to a job what its target was told to.
pub(super) fn modify(job: Job<Filled>) -> Job<Ready> {
    copy::Copy.modify(job)
}
