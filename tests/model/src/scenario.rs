// SPDX-License-Identifier: GPL-2.0

//! What a scenario is made of; `scenarios` lists them.

use crate::state::*;

/// What a user does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Write(Blocks),
    /// One that may not be split: atomic, write zeroes.
    Whole(Blocks),
    /// One that the clone can't do, or not in that shape.
    BackingOnly(Blocks),
    Discard(Blocks),
    Flush,
    Read(Blocks),
}

/// What an administrator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Start,
    Pause,
    Track,
    Mirror,
    Verify,
    Skip(Blocks),
    /// From `Presuspend` until all is drained.
    Suspend,
    Resume,
    /// A new table takes the state over, and is resumed.
    Reload,
}

/// What may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Backing,
    Clone,
    JobRead,
    JobWrite,
    Flush,
    Read,
}

pub struct Scenario {
    pub name: &'static str,
    pub tier: Tier,
    /// The blocks that there are.
    pub blocks: Blocks,
    pub words: [u8; REGIONS],
    pub mirror: bool,
    pub phase: Phase,
    /// The operations of each; one after another.
    pub writers: &'static [&'static [Op]],
    /// They begin again and again, and data is not looked at: for what must happen at last.
    pub cyclic: bool,
    /// What they make dirty by design comes again and again, so copying need not end: only whether
    /// bios do is looked at.
    pub endless: bool,
    pub jobs: u8,
    /// Jobs may claim both regions at once.
    pub runs: bool,
    pub messages: &'static [Message],
    pub faults: &'static [Fault],
    pub most_faults: u8,
    /// `on_clone_error detach`.
    pub detach: bool,
    /// The backing device has no cache: no flush ever comes, so duplicates carry FUA.
    pub fua: bool,
    /// How often a timer may drop a hold.
    pub timers: u8,
    /// An end is as many steps as it changes words that others read without the lock.
    pub fine: bool,
    /// Once complete it stays so.
    pub stays: bool,
    /// A region is one logical block of the clone.
    pub merges: bool,
}

/// Which of the sets has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    Short,
    Long,
}

pub const DIRTY: u8 = Word::D;
pub const IN_SYNC: u8 = 0;
pub const SKIPPED: u8 = Word::S;
/// The next claim is a hold claim.
pub const TRIED: u8 = 2 * Word::TRIES;

/// Two regions of a block each, mirror, one job.
pub const BASE: Scenario = Scenario {
    name: "",
    tier: Tier::Short,
    blocks: 0b0101,
    words: [DIRTY, DIRTY],
    mirror: true,
    phase: Phase::Copying,
    writers: &[],
    cyclic: false,
    endless: false,
    jobs: 1,
    runs: false,
    messages: &[],
    faults: &[],
    most_faults: 0,
    detach: false,
    fua: true,
    timers: 0,
    fine: false,
    stays: false,
    merges: false,
};

impl Scenario {
    pub fn data(&self) -> bool {
        !self.cyclic
    }

    pub fn verifies(&self) -> bool {
        self.messages.contains(&Message::Verify)
    }

    pub fn start(&self) -> State {
        let dirty = (0..REGIONS)
            .filter(|region| self.words[*region] & Word::D != 0)
            .fold(0, |all, region| all | 1 << region);
        let mut devices = Devices::default();
        if self.data() {
            for block in bits(blocks_of(dirty) & self.blocks) {
                devices.clone[usize::from(block)] = LOST;
            }
        }
        for region in 0..REGIONS {
            if self.words[region] & Word::S != 0 {
                devices.unneeded |= blocks_of(1 << region) & self.blocks;
            }
        }
        State {
            devices,
            words: self.words.map(Word),
            phase: self.phase,
            mirror: self.mirror,
            holding: true,
            detached: false,
            locked: false,
            bios: Vec::new(),
            writers: [Writer::default(); 3],
            jobs: [Job::default(); 2],
            flusher: Flusher::default(),
            loss: Loss::None,
            completer: Completer::Idle,
            control: Control {
                faults: self.most_faults,
                timers: self.timers,
                ..Control::default()
            },
            verify: Verify::default(),
            stray: None,
            wrong: None,
        }
    }
}
