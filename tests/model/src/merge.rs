// SPDX-License-Identifier: GPL-2.0

//! `Merge`: a write to a part of a logical block of the clone, which has a region's two blocks. The
//! rest is read there before, and written with it.

use crate::mistakes::Mistake;
use crate::model::Mirror;
use crate::state::*;

impl Mirror {
    /// Whether blocks are no whole ones of the clone.
    pub fn is_part(&self, blocks: Blocks) -> bool {
        self.scenario.merges && blocks != blocks_of(touched(blocks)) & self.scenario.blocks
    }

    /// What somebody has who changes these blocks: `Geometry::rounded_out`.
    pub fn rounded_out(&self, blocks: Blocks) -> Blocks {
        if self.scenario.merges && !self.has(Mistake::PartsNotRoundedOut) {
            blocks_of(touched(blocks))
        } else {
            blocks
        }
    }

    /// Whether the clone has still to be read for a bio.
    pub fn has_to_fetch(&self, bio: &Bio) -> bool {
        bio.clone.todo != 0 && !bio.fetched && self.is_part(bio.duplicated)
    }

    /// What the clone has beside it is read.
    pub fn fill(&self, state: &mut State, index: usize) {
        state.bios[index].fetched = true;
        state.bios[index].beside = state.devices.clone;
    }

    /// A block of it is written, and with it the other one of the same block of the clone.
    pub fn write_beside(&self, state: &mut State, bio: &Bio, block: u8) {
        let other = block ^ 1;
        if bio.fetched && bio.duplicated & (1 << other) == 0 {
            state.devices.clone[usize::from(other)] = bio.beside[usize::from(other)];
        }
    }
}
