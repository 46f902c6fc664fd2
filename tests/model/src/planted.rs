// SPDX-License-Identifier: GPL-2.0

//! Which scenario must find which mistake, by which property.

use crate::liveness::*;
use crate::mistakes::Mistake::{self, *};
use crate::properties::*;
use crate::scenario::{Scenario, Tier};
use crate::scenarios;

pub struct Planted {
    pub mistake: Mistake,
    pub scenario: &'static str,
    pub property: &'static str,
}

impl Planted {
    pub fn scenario(&self) -> Option<&'static Scenario> {
        scenarios::all().find(|scenario| scenario.name == self.scenario)
    }

    /// That of its scenario.
    pub fn tier(&self) -> Tier {
        self.scenario()
            .map_or(Tier::Short, |scenario| scenario.tier)
    }
}

const fn planted(mistake: Mistake, scenario: &'static str, property: &'static str) -> Planted {
    Planted {
        mistake,
        scenario,
        property,
    }
}

pub static PLANTED: &[Planted] = &[
    planted(EndBeforeD, "two writers of a region", EQUAL),
    planted(DirtyAtSubmit, "two writers of a region", EQUAL),
    planted(DClearedAfterRead, "three writers, every route", EQUAL),
    planted(DClearedAtJobEnd, "two writers of a region", EQUAL),
    planted(CClearedBeforeD, "the jobs fail", EQUAL),
    planted(CClearedBeforeWriteEnded, "two writers of a region", EQUAL),
    planted(NoStepBack, "two writers of a region", TRUE),
    planted(StepBackAfterEnd, "discards", TRUE),
    planted(StepBackBeforeD, "two writers of a region", TRUE),
    planted(StepBackIfNew, "from mirror to track", TRUE),
    planted(NoC, "two writers of a region", EQUAL),
    planted(DuplicateIgnoresC, "two writers of a region", EQUAL),
    planted(NoTableLook, "three writers, every route", EQUAL),
    planted(LookBeforeC, "three writers, every route", EQUAL),
    planted(NoLookInTrack, "from mirror to track", EQUAL),
    planted(SecondJob, "two jobs", EQUAL),
    planted(JobEndsInFlight, "the jobs fail", EQUAL),
    planted(PutBackLosesD, "the jobs fail", EQUAL),
    planted(JobIgnoresLosses, "the clone is detached", EQUAL),
    planted(ReloadWithoutDrain, "reload", EQUAL),
    planted(LookThenEnter, "three writers, every route", EQUAL),
    planted(NoOrder, "three writers in sync", EQUAL),
    planted(LeaveAtBackingEnd, "three writers in sync", EQUAL),
    planted(LeaveBeforeD, "mirror stays complete", STAYS),
    planted(NoLookAfterWait, "three writers, every route", EQUAL),
    planted(CloneFailureWithoutD, "the writes fail", EQUAL),
    planted(BackingFailureWithoutD, "the writes fail", EQUAL),
    planted(PlainWithoutD, "two writers of a region", EQUAL),
    planted(PlainFailureWithoutD, "the writes fail", EQUAL),
    planted(BackingOnlyWithoutD, "three writers, backing only", EQUAL),
    planted(
        BackingOnlyWithoutStepBack,
        "three writers, backing only",
        TRUE,
    ),
    planted(StatusFromClone, "the writes fail", STATUS),
    planted(SpanLooksFirst, "two jobs", EQUAL),
    planted(SpanDirtiesFirst, "two jobs", EQUAL),
    planted(PartialWithoutD, "three writers, every route", EQUAL),
    planted(PartialWithoutStepBack, "leftovers of track", TRUE),
    planted(DuplicateIgnoresLosses, "the clone is detached", EQUAL),
    planted(PartsNotRoundedOut, "parts of blocks", EQUAL),
    planted(DiscardMarksAtEnd, "discards", EQUAL),
    planted(DiscardClearsDFirst, "discards", EQUAL),
    planted(DiscardSetsSFirst, "discards", EQUAL),
    planted(DiscardNotInTable, "discards", EQUAL),
    planted(DiscardFailureWithoutD, "discards fail", EQUAL),
    planted(PartCoveredSkipped, "discards", EQUAL),
    planted(SkipOutsideTable, "skip", EQUAL),
    planted(SkipInTwoSteps, "skip", EQUAL),
    planted(SkippedBackingOnly, "mirror stays complete", STAYS),
    planted(RegisterAfterLook, "mirror stays complete", STAYS),
    planted(ScanBeforeCompleting, "two writers of a region", TRUE),
    planted(NoGracePeriod, "mirror stays complete", STAYS),
    planted(
        TrackUnsettled,
        "from track to a mirror that stays complete",
        STAYS,
    ),
    planted(
        SwitchKeepsComplete,
        "from track to a mirror that stays complete",
        STAYS,
    ),
    planted(
        StaleMode,
        "from track to a mirror that stays complete",
        STAYS,
    ),
    planted(NoCompletingState, "two writers of a region", TRUE),
    planted(DeclaredBeforeFlushed, "two writers of a region", TRUE),
    planted(NoFua, "mirror stays complete", TRUE),
    planted(FlushJoinsOneInFlight, "flushes", TRUE),
    planted(FlushBackingOnlyInTrack, "from mirror to track", TRUE),
    planted(FailedFlushWithoutD, "flushes fail", EQUAL),
    planted(FailedFlushDAfterEnd, "flushes fail", TRUE),
    planted(FailedFlushStepsBackAfterEnd, "flushes fail", TRUE),
    planted(SuspectLeavesSkipped, "flushes fail", EQUAL),
    planted(SuspectUntilNone, "flushes without end", ENDS),
    planted(FlushIgnoresLosses, "the clone is detached", EQUAL),
    planted(StartInItsMidst, "the clone is detached", EQUAL),
    planted(VerifyWithoutGrace, "verify in track", REPORTED),
    planted(WatchIgnoresEntries, "verify in mirror", REPORTED),
    planted(AdmitKeepsWatch, "verify in mirror", REPORTED),
    planted(ClaimKeepsWatch, "verify and a failed flush", REPORTED),
    planted(JudgeIgnoresWatch, "verify in mirror", REPORTED),
    planted(VerifyWithoutHold, "verify without end", VERIFIED),
    planted(NoHold, "writers without end", ENDS),
    planted(OnlyDisturbedCounted, "writers without end", ENDS),
    planted(RefusalsUncounted, "spanning writers without end", ENDS),
    planted(HoldWithHeldWaiting, "writers without end", ENDS),
    planted(HoldWithoutDrain, "hold", EQUAL),
    planted(HoldWithoutGrace, "writers without end", ENDS),
    planted(PutBackWhileHolding, "writers without end", ENDS),
    planted(HeldInTable, "hold", UNDONE),
    planted(QueuedWithoutH, "hold", UNDONE),
    planted(HeldTwice, "discards of parts without end", HELD),
    planted(HAfterError, "errors of a hold", UNDONE),
    planted(TwoHolds, "discards of parts without end, two jobs", HELD),
    planted(FailOverIgnoresC, "reads from the clone", READ),
    planted(FailOverIgnoresS, "reads from the clone", READ),
    planted(FailOverIgnoresAll, "reads from the clone", READ),
];
