// SPDX-License-Identifier: GPL-2.0

//! Blocks that the clone has already are not written: for re-syncs onto an old copy, and for flash
//! that shall not wear.

use super::{Block, Modify};
use crate::rmw::job::Action;
use kernel::prelude::*;

/// Tells what differs from what does not.
pub(super) struct Delta;

impl Modify for Delta {
    fn decide(&self, block: &Block<'_>) -> Option<Action> {
        block.is_on_clone().then_some(Action::Keep)
    }
}

#[kunit_tests(clone_rs_delta)]
mod tests {
    use super::*;
    use crate::abstractions::bio::test_memory;

    #[test]
    fn only_what_is_the_same_is_kept() -> Result {
        let mut memory = test_memory(32)?;
        memory.clear(24);
        let decide = |at, on_clone| {
            Delta.decide(&Block {
                memory: &memory,
                at,
                sectors: 8,
                on_clone,
            })
        };
        assert_eq!(decide(0, 16), Some(Action::Keep));
        assert_eq!(decide(8, 24), None);
        assert_eq!(decide(24, 24), Some(Action::Keep));
        assert_eq!(decide(7, 17), None);
        Ok(())
    }
}
