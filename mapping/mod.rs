// SPDX-License-Identifier: GPL-2.0

//! The life of a user's bio, in travel order.
//!
//! `geometry` turns its sector into a range of the target, `route` decides where it goes, and
//! [`Mapping::map`] sends it there. When it has ended [`Mapping::end`] records what it did in the
//! region map (`region`), before the upper layer hears of its end. Nothing is allocated, split or
//! locked on the way.
//!
//! What keeps "in sync" true: a write makes its regions dirty when it ends; a job claims a region,
//! which is not dirty from then on, and then reads it. So a write that ended before the claim is
//! seen by the read, and one that ends after it leaves its regions dirty, whenever it was
//! submitted.

#![deny(unsafe_code)]

mod discards;
pub(crate) mod geometry;
pub(crate) mod phase;
pub(crate) mod region;
mod route;

use crate::abstractions::device_mapper::{Device, MapResult, MappedBio};
use discards::Discards;
use geometry::{Geometry, Range, Span};
use kernel::{pr_warn_once, prelude::*};
use phase::Phase;
use region::{Claim, RegionMap};
pub(crate) use route::Effect;
use route::{route, Request, Route};

/// What is known of each region of a target, and kept true by all that its bios and jobs do.
///
/// Locking: none; any context where not said otherwise.
pub(crate) struct Mapping {
    pub(crate) geometry: Geometry,
    pub(crate) regions: RegionMap,
    pub(crate) phase: Phase,
    discards: Discards,
    strict_discard: bool,
}

/// Whether a change left something to copy where nobody may be looking for it.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Yes,
    No,
}

impl Mapping {
    /// Allocates the state; all regions are dirty.
    ///
    /// Context: process, may sleep. Errors: `ENOMEM`.
    pub(crate) fn new(geometry: Geometry, strict_discard: bool) -> Result<Self> {
        Ok(Self {
            regions: RegionMap::new(geometry.regions())?,
            phase: Phase::new(),
            discards: Discards::new(&geometry)?,
            geometry,
            strict_discard,
        })
    }

    /// Sends a user's bio on its way, and notes in `effect` what [`end`](Self::end) has to do.
    ///
    /// Context: process.
    #[inline]
    pub(crate) fn map<'a>(
        &self,
        backing: &Device,
        bio: MappedBio<'a>,
        effect: &mut Effect,
    ) -> MapResult<'a> {
        match route(&self.geometry, self.strict_discard, &Request::of(&bio)) {
            Route::Remap {
                sector,
                effect: of_bio,
            } => {
                *effect = of_bio;
                if let Effect::Discard(range) = of_bio {
                    self.begin_discard(range);
                }
                bio.remap(backing, sector)
            }
            Route::Kill => {
                pr_warn_once!("a bio for {} lies outside its target\n", **backing);
                bio.kill()
            }
        }
    }

    /// A user's bio has ended; its owner has not heard of it yet.
    #[inline]
    pub(crate) fn end(&self, effect: Effect, failed: bool) -> Wake {
        match effect {
            Effect::None => Wake::No,
            // Also where it failed: some of it may have been written.
            Effect::Write(range) => self.dirty(self.geometry.touched(range)),
            Effect::Discard(range) => self.end_discard(range, failed),
        }
    }

    /// Marks what is discarded whole before the discard is sent: a write that ends later wins.
    fn begin_discard(&self, range: Range) {
        self.discards.enter(range);
        self.skip(range);
    }

    /// Makes dirty what the discard may have changed in part.
    fn end_discard(&self, range: Range, failed: bool) -> Wake {
        let touched = self.geometry.touched(range);
        let covered = self.geometry.covered(range).filter(|_| !failed);
        let (head, tail) = match covered {
            Some(covered) => (
                self.geometry.span(touched.first(), covered.first()),
                self.geometry.span(covered.end(), touched.end()),
            ),
            None => (Some(touched), None),
        };
        for span in [head, tail].into_iter().flatten() {
            // Jobs that were kept away are woken below.
            let _ = self.dirty(span);
        }
        self.discards.leave(range);
        Wake::Yes
    }

    /// The regions that lie whole in `range` are not to be copied, until they are written to.
    pub(crate) fn skip(&self, range: Range) {
        if let Some(span) = self.geometry.covered(range) {
            self.regions.skip(span);
        }
    }

    /// Regions differ from here on, or are to be copied again.
    #[inline]
    pub(crate) fn dirty(&self, span: Span) -> Wake {
        self.regions.dirty(span);
        self.step_back()
    }

    /// What was written of these regions on the clone may be lost.
    pub(crate) fn suspect(&self, span: Span) -> Wake {
        self.regions.suspect(span);
        self.step_back()
    }

    #[inline]
    fn step_back(&self) -> Wake {
        if self.phase.step_back() {
            Wake::Yes
        } else {
            Wake::No
        }
    }

    /// Claims regions for a job, see [`RegionMap::claim`]; `Err` where it has to keep away from
    /// them for now.
    pub(crate) fn claim(&self, from: u64, end: u64, most: u64) -> Option<Result<Claim, Claim>> {
        let claim = self.regions.claim(from, end, most)?;
        if self.discards.touch(self.geometry.sectors(claim.span)) {
            self.regions.put_back(claim);
            return Some(Err(claim));
        }
        Some(Ok(claim))
    }

    /// Takes over the state of a target that nobody uses any more, before this one is used. Both
    /// begin at the same place and have regions of the same size; their lengths may differ.
    pub(crate) fn adopt(&self, other: &Self) {
        let (ours, theirs) = (self.geometry.len(), other.geometry.len());
        let partial = ours > theirs && theirs % self.geometry.region_size() != 0;
        self.regions.adopt(&other.regions, partial);
        if ours <= theirs {
            self.phase.adopt(&other.phase);
        }
    }
}
