// SPDX-License-Identifier: GPL-2.0

//! What is on its way to the devices and has to be known of, and what may go.
//!
//! All of it is under one lock, so each decision is one step, together with the look at the regions
//! that it depends on:
//!
//! - a bio is *admitted*: its entry and its route are decided at once, and a job that claims its
//!   regions comes either before that, so that they are seen to be claimed, or after it, so that
//!   the entry is seen. If it goes to the clone, nothing else is on its way to the same logical
//!   blocks there;
//! - regions are *claimed*: only where nothing is on its way that also goes to the clone;
//! - a bio *leaves*: what it leaves dirty is dirty before.
//!
//! Nobody waits for a copy, but for regions that were copied in vain again and again: a job *holds*
//! writes to these, one job at a time. It waits until nothing is on its way to them any more, and
//! what comes meanwhile waits for the job. No bio waits for two holds.

use super::{
    flush::Flushes,
    geometry::{Geometry, Range},
    in_flight::{Entry, InFlight, Kind, Ticket},
    region::{self, RegionMap},
    route::{Effect, Intent, What},
    stock::{Leg, Stock, Supplies, COPY_SECTORS},
    unflushed::Unflushed,
};
use crate::abstractions::{
    bio::BufferedBio,
    device_mapper::HeldList,
    sync::srcu::GracePeriod, //
};
use kernel::prelude::*;

/// What user writes do to the clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing at once: they make regions dirty.
    Track,
    /// Where both devices are the same, they reach both.
    Mirror,
}

/// What the lock protects.
pub(super) struct Traffic {
    pub(super) mode: Mode,
    /// Whether regions may be in sync: before anything was copied nothing is.
    pub(super) engaged: bool,
    /// Whether something may have been written on both devices.
    pub(super) mirrored: bool,
    /// Whether bios go to the clone.
    pub(super) attached: bool,
    /// How often the clone may have lost what was written on it.
    pub(super) losses: u64,
    /// That number when the last flush was sent.
    pub(super) losses_at_flush: u64,
    /// Whether it may have lost something since the copy was complete: what the clone answers may
    /// be what it has lost already, and has in a cache only.
    pub(super) doubted: bool,
    pub(super) in_flight: InFlight,
    /// What may not go yet, in order of arrival.
    pub(super) waiting: HeldList<Effect>,
    /// What is to be sent to the backing device once more.
    pub(super) again: HeldList<Effect>,
    /// Reads that the clone is to answer.
    pub(super) fallbacks: HeldList<Effect>,
    /// Whether one had to wait because there was no room for it.
    pub(super) crowded: bool,
    /// What writes to both devices are made with.
    pub(super) stock: Stock,
    /// Whether there is any: not before the mode is `mirror`.
    pub(super) is_stocked: bool,
    /// Whether somebody wants to hear when an entry leaves.
    pub(super) watched: bool,
    /// Whether a verify goes on, which has to know of all that is sent.
    pub(super) verifies: bool,
    /// When writes will have ended that went past the table before writes went to both devices.
    pub(super) passing: Option<GracePeriod>,
    /// The regions whose job has writes wait, and the hold's number.
    pub(super) hold: Option<(Range, u64)>,
    /// How many holds there were.
    pub(super) holds: u64,
    /// Not while the device is being suspended.
    pub(super) may_hold: bool,
    pub(super) unflushed: Unflushed,
    pub(super) flushes: Flushes,
    /// How many writes have waited for a hold.
    pub(super) held: u64,
    /// Sectors of reads that the clone has answered.
    pub(super) fallback: u64,
}

/// What becomes of a bio.
pub(super) enum Admitted {
    /// It has to wait.
    Wait,
    /// It goes.
    Go(Entered),
}

/// A bio that goes.
pub(super) struct Entered {
    pub(super) ticket: Ticket,
    pub(super) range: Range,
    pub(super) kind: Kind,
    /// For the clone, where it goes there, too.
    pub(super) leg: Option<Leg>,
    /// Memory for the data, where its own does not do.
    pub(super) copy: Option<KBox<BufferedBio>>,
}

impl Traffic {
    /// `stock` is there if the mode is `mirror`.
    pub(super) fn new(geometry: Geometry, mode: Mode, stock: Option<Stock>) -> Result<Self> {
        Ok(Self {
            mode,
            engaged: false,
            mirrored: false,
            attached: true,
            losses: 0,
            losses_at_flush: 0,
            doubted: false,
            in_flight: InFlight::new()?,
            waiting: HeldList::new(),
            again: HeldList::new(),
            fallbacks: HeldList::new(),
            crowded: false,
            is_stocked: stock.is_some(),
            stock: stock.unwrap_or(Stock::empty()),
            watched: false,
            verifies: false,
            passing: None,
            hold: None,
            holds: 0,
            may_hold: false,
            unflushed: Unflushed::new(geometry)?,
            flushes: Flushes::new(),
            held: 0,
            fallback: 0,
        })
    }

    /// The clone may have lost what was written on it and not flushed.
    pub(super) fn lose(&mut self) {
        self.losses += 1;
        self.doubted = true;
    }

    /// Whether the clone has lost nothing since the last flush was sent.
    pub(super) fn has_lost_nothing(&self) -> bool {
        self.losses == self.losses_at_flush
    }

    /// Whether writes go to both devices where these are the same.
    pub(super) fn mirrors(&self) -> bool {
        self.mode == Mode::Mirror && self.engaged && self.attached
    }

    /// Whether all that come have to wait, since others wait for room.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded && !self.waiting.is_empty()
    }

    /// Decides where a bio goes, and enters it. One that may be split may be admitted in part: its
    /// range becomes shorter. `behind` is set where it would overtake one that overlaps it.
    pub(super) fn admit(
        &mut self,
        geometry: &Geometry,
        regions: &RegionMap,
        intent: &mut Intent,
        may_split: bool,
        behind: bool,
    ) -> Admitted {
        if self.must_wait_for_hold(intent) {
            return Admitted::Wait;
        }
        if self.is_crowded() {
            return Admitted::Wait;
        }
        let mut range = intent.range;
        let both = self.mirrors();
        let kind = match intent.what {
            What::Discard => Kind::Discard,
            What::BackingOnly => Kind::Plain,
            What::Write if !both => Kind::Plain,
            What::Write => {
                let span = geometry.touched(range);
                let (kind, end) = regions.kind(span);
                let mixed = end < span.end();
                // What can't be cut, and is too long for our memory, is copied later.
                let fits = !(intent.moved || intent.merged) || range.len() <= COPY_SECTORS;
                let mut alike = !mixed;
                if mixed && may_split {
                    let before = geometry.write_before(range, geometry.first_sector(end));
                    alike = before.is_some();
                    range = before.unwrap_or(range.split(geometry.backing_block()).0);
                }
                match kind {
                    region::Kind::Behind if alike => Kind::Plain,
                    region::Kind::Behind | region::Kind::InSync if !fits => Kind::Plain,
                    region::Kind::Behind | region::Kind::InSync => Kind::Duplicate,
                }
            }
        };
        // Whoever changes a part of one of the clone's blocks has all of it.
        let locked = geometry.rounded_out(range);
        if kind != Kind::Plain && (behind || self.in_flight.conflict(locked).is_some()) {
            return Admitted::Wait;
        }
        let mut supplies = None;
        if both && kind != Kind::Plain {
            supplies = self
                .stock
                .take(intent.moved, intent.merged && kind == Kind::Duplicate);
            if supplies.is_none() {
                self.crowded = true;
                return Admitted::Wait;
            }
        }
        let entry = Entry {
            range,
            kind,
            losses: self.losses,
            missed: false,
            again: false,
        };
        match self.in_flight.enter(entry) {
            Some(ticket) => {
                intent.range = range;
                if self.verifies {
                    regions.disturb(geometry.touched(range));
                }
                let (leg, copy) = match supplies {
                    Some(Supplies { leg, copy }) => (Some(leg), copy),
                    None => (None, None),
                };
                Admitted::Go(Entered {
                    ticket,
                    range,
                    kind,
                    leg,
                    copy,
                })
            }
            None => {
                if let Some(supplies) = supplies {
                    self.stock.give_back(supplies);
                }
                self.crowded = true;
                Admitted::Wait
            }
        }
    }

    /// Whether a bio has to wait for the job that holds writes to its regions.
    pub(super) fn must_wait_for_hold(&mut self, intent: &mut Intent) -> bool {
        match (self.hold, intent.hold) {
            (Some((range, number)), None) if range.overlaps(intent.range) => {
                intent.hold = Some(number);
                true
            }
            (Some((_, number)), Some(waits_for)) => number == waits_for,
            (_, _) => false,
        }
    }

    /// Whether a bio that has waited for a job is still to go on to some of these sectors: it will
    /// not wait again, and would have the next hold be in vain.
    pub(super) fn has_been_held(&self, range: Range) -> bool {
        self.waiting.any(|effect| {
            matches!(effect, Effect::Waiting(intent)
                if intent.hold.is_some() && intent.range.overlaps(range))
        })
    }

    /// Whether a job may have writes wait now.
    pub(super) fn may_hold(&self) -> bool {
        self.mirrors() && self.may_hold && self.hold.is_none()
    }
}
