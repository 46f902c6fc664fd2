// SPDX-License-Identifier: GPL-2.0

//! Between the legs: what becomes of what was read. A piece is looked at in blocks; adjacent ones
//! that become the same are one part, and are written at once.

mod copy;
mod delta;
mod sparse;

use super::job::{Action, Filled, Job, Ready};
use crate::abstractions::bio::Memory;
use delta::Delta;
use kernel::prelude::*;
use sparse::Sparse;

/// The least sectors of a block: what file systems work with, and no device gives back less. Blocks
/// begin where a multiple of their size is on the clone.
const BLOCK: u64 = 8;

/// A filling of the stage. Context: the engine's worker.
trait Modify {
    /// What becomes of a block, if this filling has something to say about it.
    fn decide(&self, block: &Block<'_>) -> Option<Action>;
}

/// Some sectors of the job's memory, at most a block.
struct Block<'a> {
    memory: &'a Memory,
    /// Where they are in the memory, and how many they are.
    at: u64,
    sectors: u64,
    /// Where what the clone has is in the memory, for jobs that compare.
    on_clone: u64,
}

impl Block<'_> {
    /// Whether they are zeroes.
    fn is_zero(&self) -> bool {
        self.memory.is_zero(self.at, self.sectors)
    }

    /// Whether the clone has the same, for jobs that compare.
    fn is_on_clone(&self) -> bool {
        (self.memory).is_same(self.at, self.on_clone, self.sectors)
    }
}

/// Decides what becomes of the first sectors of what is left of a job's piece: those that become
/// the same.
pub(super) fn modify(job: Job<Filled>) -> Job<Ready> {
    let Filled { left, compares } = job.state;
    let engine = &job.engine;
    if job.run.fills {
        return job.ready(left.len(), Action::Fill);
    }
    let zeroes = engine.policy.sparse && engine.writes_zeroes() && !job.merges();
    let (sectors, action) = match (compares, zeroes) {
        // There is nothing to be looked at.
        (false, false) => (left.len(), copy::ACTION),
        (true, false) => look(&job, Delta),
        (false, true) => look(&job, Sparse),
        (true, true) => look(&job, (Delta, Sparse)),
    };
    job.ready(sectors, action)
}

/// Of two fillings the first one that has something to say counts.
impl<First: Modify, Second: Modify> Modify for (First, Second) {
    #[inline]
    fn decide(&self, block: &Block<'_>) -> Option<Action> {
        let (first, second) = self;
        first.decide(block).or_else(|| second.decide(block))
    }
}

/// How many of the first sectors of what is left become the same, and what: by what is in them.
fn look(job: &Job<Filled>, filling: impl Modify) -> (u64, Action) {
    let left = job.state.left;
    let geometry = &job.engine.mapping.geometry;
    let block = BLOCK.max(geometry.clone_block());
    let (place, place_on_clone) = (job.place(left), job.place_on_clone(left));
    first_part(
        geometry.clone_sector(left),
        left.len(),
        block,
        |from, sectors| {
            let block = Block {
                memory: job.slot.memory(),
                at: place + from,
                sectors,
                on_clone: place_on_clone + from,
            };
            filling.decide(&block).unwrap_or(copy::ACTION)
        },
    )
}

/// How many of the first sectors become the same, and what. There are `len`, at sector `begin` of
/// the clone.
fn first_part(
    begin: u64,
    len: u64,
    block: u64,
    decide: impl Fn(u64, u64) -> Action,
) -> (u64, Action) {
    let size = |from: u64| (block - (begin + from) % block).min(len - from);
    let mut from = size(0);
    let first = decide(0, from);
    while from < len && decide(from, size(from)) == first {
        from += size(from);
    }
    (from, first)
}

#[kunit_tests(clone_rs_modify)]
mod tests {
    use super::*;

    /// The parts where the sectors that the function names are data, and the others zeroes.
    fn parts(begin: u64, len: u64, has_data: impl Fn(u64) -> bool) -> Result<KVec<(u64, Action)>> {
        let mut found = KVec::new();
        let mut from = 0;
        while from < len {
            let (sectors, action) = first_part(begin + from, len - from, 8, |at, sectors| {
                if (from + at..from + at + sectors).any(&has_data) {
                    Action::Write
                } else {
                    Action::Zero
                }
            });
            found.push((sectors, action), GFP_KERNEL)?;
            from += sectors;
        }
        Ok(found)
    }

    #[test]
    fn blocks_are_aligned_on_the_clone() -> Result {
        use Action::{Write, Zero};
        assert_eq!(&*parts(0, 64, |_| false)?, [(64, Zero)]);
        assert_eq!(&*parts(0, 64, |_| true)?, [(64, Write)]);
        assert_eq!(
            &*parts(0, 64, |sector| sector == 17)?,
            [(16, Zero), (8, Write), (40, Zero)]
        );
        // The first block ends at sector 8 of the clone, the last one is short.
        assert_eq!(
            &*parts(5, 20, |sector| sector == 2 || sector == 19)?,
            [(3, Write), (16, Zero), (1, Write)]
        );
        assert_eq!(&*parts(7, 1, |_| false)?, [(1, Zero)]);
        Ok(())
    }
}
