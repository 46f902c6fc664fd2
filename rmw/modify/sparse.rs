// SPDX-License-Identifier: GPL-2.0

//! Blocks that are all zeroes are not sent to the clone: it is told to zero them, so that a thin
//! one stays thin. Nothing is assumed about what it had there.

use super::{Block, Modify};
use crate::rmw::job::Action;
use kernel::prelude::*;

/// Tells zeroes from data.
pub(super) struct Sparse;

impl Modify for Sparse {
    fn decide(&self, block: &Block<'_>) -> Option<Action> {
        block.is_zero().then_some(Action::Zero)
    }
}

#[kunit_tests(clone_rs_sparse)]
mod tests {
    use super::*;
    use crate::abstractions::bio::test_memory;

    #[test]
    fn only_zeroes_are_zeroed() -> Result {
        let mut memory = test_memory(32)?;
        memory.clear(16);
        let decide = |at, sectors| {
            Sparse.decide(&Block {
                memory: &memory,
                at,
                sectors,
                on_clone: 0,
            })
        };
        assert_eq!(decide(0, 8), Some(Action::Zero));
        assert_eq!(decide(8, 8), Some(Action::Zero));
        assert_eq!(decide(15, 8), None);
        assert_eq!(decide(16, 8), None);
        Ok(())
    }
}
