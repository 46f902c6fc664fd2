// SPDX-License-Identifier: GPL-2.0

//! A user's bio, and with it its entry in the table of what is in flight or waits.

use crate::state::{Blocks, Regions, Version, BLOCKS};

/// One of the two bios of a write; the blocks that it still has to change.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Leg {
    pub todo: Blocks,
    pub failed: bool,
}

/// How a bio was routed: the kinds of entries, and `Track`, which has no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Track,
    Plain,
    Duplicate,
    Partial,
    Discard,
}

/// What a waiting entry waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wait {
    Overlap,
    Hold,
    /// The hold is over, the worker has not come by yet.
    Released,
}

/// The steps of an end, where they are not one critical section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ending {
    /// D on these regions, one after another.
    Dirty(Regions),
    StepBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    Waiting(Wait),
    /// Only for mistakes: decided, not yet in the table or in the queue.
    Decided(Kind),
    ToHold,
    InFlight,
    Ending(Ending),
    /// Only for mistakes: the user has heard of the end, this is still to be done.
    Ended(Ending),
    /// A user's flush: it has looked at the phase, and goes to both devices.
    FlushLooked,
    /// It waits for a flush of the clone to be sent, then for that flush.
    FlushWaiting,
    FlushSent,
    /// What is left is the backing device's part.
    FlushServed,
    /// A user's read, from the backing device.
    Read,
    /// That failed; the regions that are still to be looked at.
    FailOver(Regions),
    ReadClone,
}

/// A user's bio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bio {
    pub writer: u8,
    /// The number of its operation.
    pub version: Version,
    pub range: Blocks,
    pub stage: Stage,
    pub kind: Kind,
    /// It was held once.
    pub held: bool,
    pub discard: bool,
    /// It never goes to the clone, whatever its regions are.
    pub backing_only: bool,
    /// Only for mistakes: it has left the table already.
    pub left: bool,
    /// What of it goes to the clone.
    pub duplicated: Blocks,
    /// A part of a block of the clone: whether the rest was read, and what that was.
    pub fetched: bool,
    pub beside: [Version; BLOCKS],
    pub backing: Leg,
    pub clone: Leg,
    /// `losses` has changed since it was routed.
    pub lost: bool,
    /// The regions that its end makes dirty, for the steps of `Ending`.
    pub dirty: Regions,
    /// A flush: what was acknowledged before it. A read: what was written during it.
    pub noted: Blocks,
}

impl Bio {
    pub fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }

    /// Whether it is a write or discard that the devices may have seen, and its user no end.
    pub fn is_changing(&self) -> bool {
        matches!(self.stage, Stage::InFlight | Stage::Ending(_))
    }

    /// Whether the table has an entry of it in flight.
    pub fn is_entered(&self) -> bool {
        self.kind != Kind::Track
            && !self.left
            && matches!(
                self.stage,
                Stage::InFlight | Stage::Ending(_) | Stage::Ended(_)
            )
    }

    pub fn is_write(&self) -> bool {
        self.version != 0
    }
}
