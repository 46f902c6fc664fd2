// SPDX-License-Identifier: GPL-2.0

//! The scenarios whose writers come to an end, by what they are about.

use crate::scenario::{Op::*, *};
use crate::state::*;

/// The only block of a region.
const R0: Blocks = 0b0001;
const R1: Blocks = 0b0100;
const SPAN: Blocks = 0b0101;
/// Where regions have two blocks.
const ALL: Blocks = 0b1111;
const MIDDLE: Blocks = 0b0110;

pub fn all() -> impl Iterator<Item = &'static Scenario> {
    FINITE.iter().chain(crate::endless::CYCLIC)
}

static FINITE: &[Scenario] = &[
    Scenario {
        name: "two writers of a region",
        writers: &[&[Write(R0)], &[Write(R0), Write(R0)]],
        words: [DIRTY, IN_SYNC],
        ..BASE
    },
    Scenario {
        name: "three writers, every route",
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(SPAN)], &[Whole(SPAN)], &[Write(R1)]],
        ..BASE
    },
    Scenario {
        name: "three writers in sync",
        words: [IN_SYNC, IN_SYNC],
        writers: &[&[Write(SPAN)], &[Whole(SPAN)], &[Write(R1), Write(R0)]],
        stays: true,
        ..BASE
    },
    Scenario {
        name: "three writers, backing only",
        words: [DIRTY, IN_SYNC],
        writers: &[&[BackingOnly(SPAN)], &[Whole(SPAN)], &[Write(R1)]],
        ..BASE
    },
    Scenario {
        name: "mirror stays complete",
        words: [DIRTY, SKIPPED],
        writers: &[&[Write(SPAN)], &[Write(R0), Write(R0)]],
        stays: true,
        ..BASE
    },
    Scenario {
        name: "writes of parts",
        blocks: ALL,
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(MIDDLE)], &[Whole(MIDDLE)], &[Write(0b1000)]],
        ..BASE
    },
    Scenario {
        name: "parts of blocks",
        blocks: ALL,
        merges: true,
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(MIDDLE)], &[Write(0b1000)], &[Write(0b0001)]],
        ..BASE
    },
    Scenario {
        name: "parts of blocks may fail",
        blocks: ALL,
        merges: true,
        words: [IN_SYNC, IN_SYNC],
        writers: &[&[Whole(MIDDLE)], &[Write(0b1000), Discard(0b0011)]],
        faults: &[Fault::Clone, Fault::Backing],
        most_faults: 1,
        ..BASE
    },
    Scenario {
        name: "two jobs",
        jobs: 2,
        runs: true,
        writers: &[&[Whole(SPAN)], &[Write(R0)]],
        ..BASE
    },
    Scenario {
        name: "track",
        mirror: false,
        writers: &[&[Write(SPAN)], &[Write(R0), Write(R0)]],
        ..BASE
    },
    Scenario {
        name: "the writes fail",
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(SPAN)], &[Whole(SPAN)]],
        faults: &[Fault::Backing, Fault::Clone],
        most_faults: 1,
        ..BASE
    },
    Scenario {
        name: "the jobs fail",
        runs: true,
        words: [DIRTY, DIRTY],
        writers: &[&[Whole(SPAN)], &[Write(R0)]],
        faults: &[Fault::JobRead, Fault::JobWrite],
        most_faults: 1,
        ..BASE
    },
    Scenario {
        name: "the clone is detached",
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(R0)], &[Write(R1)]],
        faults: &[Fault::Clone, Fault::JobWrite],
        most_faults: 1,
        detach: true,
        fua: false,
        ..BASE
    },
    Scenario {
        name: "discards",
        blocks: 0b0111,
        writers: &[&[Discard(0b0110)], &[Write(MIDDLE)]],
        ..BASE
    },
    Scenario {
        name: "discards fail",
        blocks: 0b0111,
        words: [IN_SYNC, IN_SYNC],
        writers: &[&[Discard(0b0110)], &[Write(R1)]],
        faults: &[Fault::Backing, Fault::Clone],
        most_faults: 1,
        ..BASE
    },
    Scenario {
        name: "discards in track",
        mirror: false,
        words: [DIRTY, IN_SYNC],
        writers: &[&[Discard(SPAN)], &[Write(SPAN)]],
        ..BASE
    },
    Scenario {
        name: "skip",
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(SPAN)], &[Write(R0)]],
        messages: &[Message::Skip(SPAN)],
        ..BASE
    },
    Scenario {
        name: "flushes",
        fua: false,
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(R1), Flush], &[Write(SPAN)]],
        ..BASE
    },
    Scenario {
        name: "two flushes",
        fua: false,
        words: [IN_SYNC, IN_SYNC],
        writers: &[&[Write(R1), Flush], &[Write(R0), Flush]],
        ..BASE
    },
    Scenario {
        name: "flushes fail",
        fua: false,
        words: [IN_SYNC, SKIPPED],
        phase: Phase::Complete,
        writers: &[&[Write(R0), Flush], &[Write(R1)]],
        faults: &[Fault::Flush],
        most_faults: 1,
        ..BASE
    },
    Scenario {
        name: "from track to mirror",
        mirror: false,
        writers: &[&[Write(R0)], &[Whole(SPAN)]],
        messages: &[Message::Mirror],
        ..BASE
    },
    Scenario {
        name: "from track to a mirror that stays complete",
        mirror: false,
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(R0)], &[Whole(SPAN)]],
        messages: &[Message::Mirror],
        stays: true,
        ..BASE
    },
    Scenario {
        name: "from track to mirror, and a flush",
        mirror: false,
        fua: false,
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(R0)], &[Write(R1), Flush]],
        messages: &[Message::Mirror],
        stays: true,
        ..BASE
    },
    Scenario {
        name: "from mirror to track",
        fua: false,
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(SPAN)], &[Write(R1), Flush]],
        messages: &[Message::Track],
        ..BASE
    },
    Scenario {
        name: "leftovers of track",
        mirror: false,
        blocks: 0b0111,
        words: [IN_SYNC, IN_SYNC],
        writers: &[&[Write(0b0010)], &[Whole(SPAN)]],
        messages: &[Message::Mirror],
        ..BASE
    },
    Scenario {
        name: "pause",
        writers: &[&[Write(SPAN)], &[Write(R0)]],
        messages: &[Message::Pause, Message::Start],
        ..BASE
    },
    Scenario {
        name: "suspend",
        words: [DIRTY | TRIED, IN_SYNC],
        writers: &[&[Write(R0), Write(SPAN)], &[Whole(SPAN)]],
        messages: &[Message::Suspend, Message::Resume],
        ..BASE
    },
    Scenario {
        name: "reload",
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(SPAN), Write(R0)]],
        messages: &[Message::Suspend, Message::Reload],
        ..BASE
    },
    Scenario {
        name: "hold",
        words: [DIRTY | TRIED, DIRTY | TRIED],
        writers: &[&[Whole(SPAN)], &[Write(R0)]],
        timers: 1,
        ..BASE
    },
    Scenario {
        name: "errors of a hold",
        words: [DIRTY | TRIED, IN_SYNC],
        writers: &[&[Write(R0)], &[Whole(SPAN)]],
        faults: &[Fault::JobRead, Fault::JobWrite],
        most_faults: 1,
        ..BASE
    },
    Scenario {
        name: "reads from the clone",
        words: [DIRTY, IN_SYNC],
        writers: &[&[Read(SPAN)], &[Write(SPAN)], &[Discard(R1)]],
        faults: &[Fault::Read],
        most_faults: 1,
        ..BASE
    },
    Scenario {
        name: "ends step by step",
        words: [DIRTY, IN_SYNC],
        writers: &[&[Whole(SPAN)], &[Write(R0)]],
        faults: &[Fault::Clone],
        most_faults: 1,
        fine: true,
        ..BASE
    },
    Scenario {
        name: "verify in track",
        mirror: false,
        words: [IN_SYNC, IN_SYNC],
        writers: &[&[Write(R0), Write(R0)], &[Whole(SPAN)]],
        messages: &[Message::Verify],
        ..BASE
    },
    Scenario {
        name: "verify in mirror",
        blocks: 0b0111,
        words: [IN_SYNC, IN_SYNC],
        writers: &[&[Write(0b0011)], &[Whole(MIDDLE)], &[Discard(R1)]],
        messages: &[Message::Verify],
        ..BASE
    },
    Scenario {
        name: "verify and backing only",
        words: [IN_SYNC, IN_SYNC],
        writers: &[&[BackingOnly(SPAN)], &[Write(R0)]],
        messages: &[Message::Verify],
        ..BASE
    },
    Scenario {
        name: "verify and a failed flush",
        fua: false,
        words: [IN_SYNC, IN_SYNC],
        writers: &[&[Write(R0), Flush, Write(R0)]],
        messages: &[Message::Verify],
        faults: &[Fault::Flush],
        most_faults: 1,
        ..BASE
    },
    Scenario {
        name: "verify, a mode switch and a suspend",
        mirror: false,
        words: [IN_SYNC, DIRTY],
        writers: &[&[Write(R0)], &[Write(R0)]],
        messages: &[
            Message::Verify,
            Message::Mirror,
            Message::Suspend,
            Message::Resume,
        ],
        ..BASE
    },
    Scenario {
        name: "verify while writes fail",
        tier: Tier::Long,
        words: [IN_SYNC, IN_SYNC],
        writers: &[&[Write(R0)], &[Whole(SPAN)]],
        messages: &[Message::Verify],
        faults: &[
            Fault::Backing,
            Fault::Clone,
            Fault::JobRead,
            Fault::JobWrite,
        ],
        most_faults: 1,
        detach: true,
        ..BASE
    },
    Scenario {
        name: "every route, two jobs",
        tier: Tier::Long,
        words: [DIRTY, IN_SYNC],
        jobs: 2,
        runs: true,
        writers: &[&[Write(SPAN)], &[Whole(SPAN)], &[Write(R0)]],
        ..BASE
    },
    Scenario {
        name: "track, two jobs",
        tier: Tier::Long,
        mirror: false,
        jobs: 2,
        writers: &[&[Write(SPAN)], &[Write(R0), Write(R1)]],
        ..BASE
    },
    Scenario {
        name: "detached, spanning writes",
        tier: Tier::Long,
        words: [DIRTY, IN_SYNC],
        writers: &[&[Write(SPAN)], &[Write(R1)]],
        faults: &[Fault::Clone, Fault::JobWrite],
        most_faults: 1,
        detach: true,
        fua: false,
        ..BASE
    },
    Scenario {
        name: "flushes fail while copying",
        tier: Tier::Long,
        fua: false,
        words: [DIRTY, SKIPPED],
        writers: &[&[Write(R0), Flush], &[Write(SPAN)]],
        faults: &[Fault::Flush],
        most_faults: 1,
        ..BASE
    },
    Scenario {
        name: "hold, two jobs",
        tier: Tier::Long,
        words: [DIRTY | TRIED, DIRTY | TRIED],
        jobs: 2,
        writers: &[&[Write(SPAN)], &[Whole(SPAN)]],
        timers: 1,
        ..BASE
    },
    Scenario {
        name: "from track to mirror, step by step",
        tier: Tier::Long,
        mirror: false,
        writers: &[&[Write(SPAN)], &[Write(R0), Write(R0)]],
        messages: &[Message::Mirror],
        fine: true,
        ..BASE
    },
    Scenario {
        name: "discards, three writers",
        tier: Tier::Long,
        blocks: 0b0111,
        writers: &[&[Discard(0b0110)], &[Write(R1)], &[Whole(MIDDLE)]],
        ..BASE
    },
    Scenario {
        name: "discards and errors",
        tier: Tier::Long,
        blocks: 0b0111,
        words: [DIRTY, IN_SYNC],
        writers: &[&[Discard(0b0110)], &[Write(R1)], &[Whole(MIDDLE)]],
        faults: &[Fault::Backing, Fault::Clone, Fault::JobWrite],
        most_faults: 1,
        ..BASE
    },
    Scenario {
        name: "two faults",
        tier: Tier::Long,
        words: [DIRTY, IN_SYNC],
        writers: &[&[Whole(SPAN)], &[Write(R0)]],
        faults: &[Fault::Backing, Fault::Clone, Fault::JobWrite, Fault::Flush],
        most_faults: 2,
        ..BASE
    },
];
