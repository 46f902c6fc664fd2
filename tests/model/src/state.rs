// SPDX-License-Identifier: GPL-2.0

//! What there is at a moment: the devices' data, the words of the target, and how far each of those
//! is that act on them.
//!
//! Two regions of up to two blocks each. A block's data is the number of the write that it is of.

pub use crate::bio::*;

/// Blocks, one bit each: those of region 0 are the lower two.
pub type Blocks = u8;
/// Regions, one bit each.
pub type Regions = u8;
/// What a block holds: 0 at the start, then the number of an operation.
pub type Version = u8;

pub const BLOCKS: usize = 4;
pub const REGIONS: usize = 2;
pub const BOTH: Regions = 3;

/// What a block holds when the clone's cache was lost.
pub const LOST: Version = 0xff;
/// A discard leaves something else on the clone than on the backing device.
pub const ON_CLONE: Version = 0x80;

/// The blocks of regions, whether they exist or not.
pub fn blocks_of(regions: Regions) -> Blocks {
    let of = |region: u8, blocks: Blocks| (regions >> region & 1) * blocks;
    of(0, 0b0011) | of(1, 0b1100)
}

/// The regions that blocks lie in.
pub fn touched(blocks: Blocks) -> Regions {
    u8::from(blocks & 0b0011 != 0) | u8::from(blocks & 0b1100 != 0) << 1
}

/// The bits of a set, lowest first.
pub fn bits(set: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |bit| set >> bit & 1 != 0)
}

/// The word of a region. A, put aside, is not modelled.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub struct Word(pub u8);

impl Word {
    pub const D: u8 = 1;
    pub const C: u8 = 2;
    pub const S: u8 = 4;
    pub const H: u8 = 8;
    pub const TRIES: u8 = 16;

    pub fn has(self, any: u8) -> bool {
        self.0 & any != 0
    }

    pub fn set(&mut self, bits: u8) {
        self.0 |= bits;
    }

    pub fn clear(&mut self, bits: u8) {
        self.0 &= !bits;
    }

    /// 0, 1, or 2 for that and more.
    pub fn tries(self) -> u8 {
        self.0 / Self::TRIES
    }

    pub fn try_more(&mut self) {
        if self.tries() < 2 {
            self.0 += Self::TRIES;
        }
    }

    pub fn forget_tries(&mut self) {
        self.0 %= Self::TRIES;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Copying,
    Completing,
    Complete,
}

/// The devices, and what was promised of the clone.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub struct Devices {
    pub backing: [Version; BLOCKS],
    pub clone: [Version; BLOCKS],
    /// In the clone's cache only.
    pub volatile: Blocks,
    /// What has to be durable on the clone when the phase is complete.
    pub promised: Blocks,
    /// Nobody needs them: discarded or skipped, and not written since.
    pub unneeded: Blocks,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Its next operation, or the one that it is about.
    pub at: u8,
    /// The part of a split write that comes as a bio of its own.
    pub rest: Blocks,
    /// Its bios that have not ended.
    pub bios: u8,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub enum JobStage {
    #[default]
    Idle,
    /// Only for mistakes: looked, and not claimed yet.
    Looked,
    /// A hold claim that waits for what is in flight.
    Draining,
    Reading,
    Writing,
    /// A bio has failed.
    Failed,
    /// All of the run is on the clone.
    Written,
    /// It is recorded as unflushed; were there losses?
    Marked,
    Copied,
    /// D on these regions, then C is cleared.
    GiveUp(Regions),
    /// What waits for it goes on.
    EndHold,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    pub stage: JobStage,
    pub run: Regions,
    pub hold: bool,
    /// `losses` has changed since the claim.
    pub lost: bool,
    /// A loss of the clone's, not of the backing device's.
    pub clone_failed: bool,
    pub todo: Blocks,
    /// The blocks of the clone that its write has changed so far.
    pub changed: Blocks,
    pub buffer: [Version; BLOCKS],
}

/// The one flush of the clone that may be in flight.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub enum FlusherStage {
    #[default]
    Idle,
    InFlight,
    /// The clone has lost its cache, nobody knows yet.
    Failed,
    /// `losses` is counted, D is being set.
    Suspecting,
    /// It has ended well after a loss: D is being set.
    Unsecured,
    /// Only for a mistake: the phase is still to go back.
    StepBack,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub struct Flusher {
    pub stage: FlusherStage,
    /// What it makes durable.
    pub secures: Blocks,
    /// The clone has lost its cache meanwhile (`losses_at_flush`): it secures nothing.
    pub doomed: bool,
    /// It is the one that `complete` waits for.
    pub completing: bool,
    /// None is sent before a `start`.
    pub broken: bool,
    /// Regions written since the last one was sent, and those that it is to secure.
    pub current: Regions,
    pub sent: Regions,
}

/// `suspect_unflushed`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    #[default]
    None,
    /// The regions that are still to be looked at.
    Next(Regions),
    Suspect(Regions, Regions),
    StepBack(Regions),
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub enum Completer {
    #[default]
    Idle,
    /// It has seen no dirty region in the counts, which lag behind.
    Begin,
    /// These regions are still to be scanned.
    Scan(Regions),
    /// Something was dirty.
    GiveUp,
    /// Waits for no backing-only write, and for the flush to be free.
    Look,
    Flushing,
    Complete,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub enum Suspend {
    #[default]
    Running,
    /// Nothing is held any more; no job begins.
    Presuspend,
    /// The core keeps new bios, and waits for those in flight.
    Blocked,
    /// All of the user's have ended.
    Postsuspend,
    Suspended,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub struct Control {
    /// Its next message.
    pub at: u8,
    pub suspend: Suspend,
    pub paused: bool,
    /// A leg has failed on the clone, and nobody has acted on that.
    pub failed: bool,
    /// Paused by a failure.
    pub stopped: bool,
    /// The mode is `mirror`, and the phase has still to go back.
    pub switching: bool,
    /// Only for mistakes: a `skip` of these regions is half done.
    pub skipping: Regions,
    /// Faults and timers that may still come.
    pub faults: u8,
    pub timers: u8,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub enum VerifyStage {
    #[default]
    Idle,
    /// Writes that went past the table are still on their way.
    Settling,
    /// The next region is to be looked at.
    Next,
    Reading,
    ReadingClone,
    Differs,
    Done,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub struct Verify {
    pub stage: VerifyStage,
    /// The regions to be looked at; the first one is being looked at.
    pub left: Regions,
    /// It, if nothing was sent there since: the bit V.
    pub watched: Regions,
    pub todo: Blocks,
    pub buffer: [Version; BLOCKS],
    pub differs: bool,
    /// How often it was looked at in vain.
    pub tries: u8,
    /// Writes to it wait.
    pub hold: bool,
}

impl Verify {
    /// Whether a read is in flight, or about to be.
    pub fn is_looking(&self) -> bool {
        matches!(
            self.stage,
            VerifyStage::Reading | VerifyStage::ReadingClone | VerifyStage::Differs
        )
    }
}

/// What a step has done that it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    Status,
    Stale,
    SteppedBack,
    Reported,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub devices: Devices,
    pub words: [Word; REGIONS],
    pub phase: Phase,
    pub mirror: bool,
    pub holding: bool,
    pub detached: bool,
    /// A critical section that is more than one step.
    pub locked: bool,
    /// Those in flight in an order of their own, then those that wait as they came.
    pub bios: Vec<Bio>,
    pub writers: [Writer; 3],
    pub jobs: [Job; 2],
    pub flusher: Flusher,
    pub loss: Loss,
    pub completer: Completer,
    pub control: Control,
    pub verify: Verify,
    /// Only for mistakes: a write of a job that has ended.
    pub stray: Option<(u8, Version)>,
    pub wrong: Option<Wrong>,
}

impl State {
    /// Those of these regions that have any of these bits.
    pub fn with(&self, regions: Regions, any: u8) -> Regions {
        bits(regions)
            .filter(|region| self.words[usize::from(*region)].has(any))
            .fold(0, |all, region| all | 1 << region)
    }

    pub fn set(&mut self, regions: Regions, on: u8) {
        for region in bits(regions) {
            self.words[usize::from(region)].set(on);
        }
    }

    pub fn clear(&mut self, regions: Regions, off: u8) {
        for region in bits(regions) {
            self.words[usize::from(region)].clear(off);
        }
    }

    /// Whether all writes enter the table.
    pub fn all_enter(&self) -> bool {
        self.mirror || !matches!(self.verify.stage, VerifyStage::Idle | VerifyStage::Done)
    }

    /// The blocks that a bio in flight may be changing.
    pub fn changing(&self) -> Blocks {
        self.bios
            .iter()
            .filter(|bio| bio.is_write() && bio.is_changing())
            .fold(0, |all, bio| all | bio.range)
    }

    /// `losses += 1`: whoever remembers another count.
    pub fn lose(&mut self) {
        for bio in &mut self.bios {
            bio.lost |= bio.is_entered();
        }
        for job in &mut self.jobs {
            job.lost |= job.stage != JobStage::Idle;
        }
    }

    /// So that states that differ in nothing but the order of what is in flight are one.
    pub fn in_order(mut self) -> Self {
        self.bios
            .sort_by(|one, other| match (one.is_waiting(), other.is_waiting()) {
                (false, false) => one.cmp(other),
                (true, true) => std::cmp::Ordering::Equal,
                (waits, also) => waits.cmp(&also),
            });
        self
    }
}
