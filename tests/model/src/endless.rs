// SPDX-License-Identifier: GPL-2.0

//! The scenarios whose writers write again and again: what must happen at last all the same.

use crate::scenario::{Op::*, *};
use crate::state::*;

const R0: Blocks = 0b0001;
const SPAN: Blocks = 0b0101;
/// A block of each of two regions of two blocks.
const MIDDLE: Blocks = 0b0110;

const ENDLESS: Scenario = Scenario {
    cyclic: true,
    ..BASE
};

pub static CYCLIC: &[Scenario] = &[
    Scenario {
        name: "writers without end",
        writers: &[&[Write(SPAN)], &[Write(R0)]],
        ..ENDLESS
    },
    Scenario {
        name: "spanning writers without end",
        words: [DIRTY, IN_SYNC],
        writers: &[&[Whole(SPAN)], &[Whole(SPAN)]],
        ..ENDLESS
    },
    Scenario {
        name: "discards of parts without end",
        blocks: 0b0111,
        words: [DIRTY | TRIED, IN_SYNC],
        endless: true,
        writers: &[&[Discard(0b0010)], &[Whole(0b0001)]],
        ..ENDLESS
    },
    Scenario {
        name: "discards of parts without end, two jobs",
        blocks: 0b1111,
        words: [DIRTY | TRIED, DIRTY | TRIED],
        endless: true,
        jobs: 2,
        writers: &[&[Discard(0b0001)], &[Discard(MIDDLE)], &[Discard(0b1000)]],
        ..ENDLESS
    },
    Scenario {
        name: "backing only without end",
        words: [DIRTY | TRIED, IN_SYNC],
        endless: true,
        writers: &[&[BackingOnly(SPAN)], &[Whole(SPAN)]],
        ..ENDLESS
    },
    Scenario {
        name: "discards of regions without end",
        words: [DIRTY, SKIPPED],
        writers: &[&[Discard(R0)], &[Whole(SPAN)]],
        ..ENDLESS
    },
    Scenario {
        name: "verify without end",
        words: [IN_SYNC, IN_SYNC],
        writers: &[&[Write(R0)], &[Whole(SPAN)]],
        messages: &[Message::Verify],
        ..ENDLESS
    },
    Scenario {
        name: "errors and writers without end",
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(R0)], &[Write(R0)]],
        faults: &[Fault::Clone, Fault::JobWrite, Fault::Backing],
        most_faults: 1,
        timers: 1,
        ..ENDLESS
    },
    Scenario {
        name: "errors and spanning writers without end",
        tier: Tier::Long,
        writers: &[&[Write(R0)], &[Whole(SPAN)]],
        faults: &[Fault::Clone, Fault::JobWrite, Fault::Backing],
        most_faults: 1,
        timers: 1,
        ..ENDLESS
    },
    Scenario {
        name: "writers without end, two jobs",
        tier: Tier::Long,
        jobs: 2,
        writers: &[&[Write(SPAN)], &[Write(R0)]],
        ..ENDLESS
    },
    Scenario {
        name: "detached and started without end",
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(R0)], &[Write(R0)]],
        faults: &[Fault::Clone],
        most_faults: 1,
        detach: true,
        fua: false,
        ..ENDLESS
    },
    Scenario {
        name: "from track to mirror without end",
        mirror: false,
        words: [DIRTY, IN_SYNC],
        messages: &[Message::Mirror],
        writers: &[&[Write(R0)], &[Write(R0)]],
        ..ENDLESS
    },
    Scenario {
        name: "flushes without end",
        fua: false,
        writers: &[&[Write(R0), Flush], &[Flush]],
        faults: &[Fault::Flush],
        most_faults: 1,
        ..ENDLESS
    },
    Scenario {
        name: "suspends and writers without end",
        words: [DIRTY | TRIED, IN_SYNC],
        writers: &[&[Write(R0)], &[Whole(SPAN)]],
        messages: &[Message::Suspend, Message::Resume],
        ..ENDLESS
    },
];
