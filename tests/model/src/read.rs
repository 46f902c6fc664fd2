// SPDX-License-Identifier: GPL-2.0

//! A read that failed on the backing device, and is answered from the clone.

use crate::mistakes::Mistake;
use crate::model::Mirror;
use crate::route::first;
use crate::state::*;

impl Mirror {
    pub fn read_fault(&self, state: &mut State, index: usize) {
        state.control.faults -= 1;
        let changing = state.changing();
        let bio = &mut state.bios[index];
        bio.stage = Stage::FailOver(touched(bio.range));
        bio.noted = changing;
    }

    /// `Mapping::read_failed`: a region after another is looked at; one that is not in sync ends
    /// the read with its error.
    pub fn read_failed(&self, state: &mut State, index: usize) {
        let bio = state.bios[index];
        let Stage::FailOver(left) = bio.stage else {
            return;
        };
        let region = first(left);
        let any = match self.mistake {
            Some(Mistake::FailOverIgnoresC) => Word::D | Word::S,
            Some(Mistake::FailOverIgnoresS) => Word::D | Word::C,
            Some(Mistake::FailOverIgnoresAll) => 0,
            _ => Word::D | Word::C | Word::S,
        };
        if state.detached || state.with(region, any) != 0 {
            return self.acknowledge(state, index);
        }
        state.bios[index].stage = if left == region {
            Stage::ReadClone
        } else {
            Stage::FailOver(left & !region)
        };
    }

    /// The clone is asked (`Effect::Fallback`). What is read has to be what the backing device has,
    /// where nobody wrote meanwhile.
    pub fn fallback(&self, state: &mut State, index: usize) {
        let bio = state.bios[index];
        let devices = &state.devices;
        if bits(bio.range & !bio.noted)
            .map(usize::from)
            .any(|block| devices.clone[block] != devices.backing[block])
        {
            state.wrong = Some(Wrong::Stale);
        }
        self.acknowledge(state, index);
    }
}
