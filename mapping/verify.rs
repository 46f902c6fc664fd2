// SPDX-License-Identifier: GPL-2.0

//! What a verify has to know of the users' bios, to tell a difference between the devices from a
//! write that is on its way. Context: process.
//!
//! A range is *watched* in the step in which nothing is seen to be on its way there, and is not any
//! more in the step in which something is admitted there, or a job claims it. Between those nobody
//! of ours sends anything to either device. So what is read of both meanwhile and differs, differs.

use super::{geometry::Range, region::Watched, Mapping};
use crate::abstractions::sync::srcu::GracePeriod;

/// What it means that the devices differ in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// They do, and nobody knew.
    Found,
    /// It may be that of a write that was on its way: to be looked at again.
    Again,
    /// The region is not in sync, or won't be soon.
    Known,
}

impl Mapping {
    /// From here on all writes enter the table; those that went past it have ended when
    /// [`all_enter`](Self::all_enter) says so.
    pub(crate) fn have_writes_enter(&self) -> GracePeriod {
        // Before a range can be watched.
        let mut traffic = self.traffic.lock();
        traffic.verifies = true;
        self.bypass.close()
    }

    /// Whether no write is on its way any more that is not in the table.
    pub(crate) fn all_enter(&self, period: GracePeriod) -> bool {
        self.bypass.is_over(period)
    }

    /// Nobody looks any more.
    pub(crate) fn let_writes_pass(&self) {
        let mut traffic = self.traffic.lock();
        traffic.verifies = false;
        self.let_pass(&traffic);
    }

    /// A range is about to be read on both devices.
    pub(crate) fn watch(&self, range: Range) {
        let traffic = self.traffic.lock();
        let span = self.geometry.touched(range);
        self.regions.watch(span);
        for entry in traffic.in_flight.overlapping(self.geometry.sectors(span)) {
            if let Some(touched) = self.geometry.touched(entry.range).common(span) {
                self.regions.disturb(touched);
            }
        }
    }

    /// What was read of both devices since the region was watched differs: says what that means.
    pub(crate) fn judge(&self, region: u64) -> Difference {
        let traffic = self.traffic.lock();
        match self.regions.watched(region) {
            Watched::Undisturbed => Difference::Found,
            Watched::Changed => Difference::Known,
            Watched::Disturbed => {
                let plain = (self.geometry.span(region, region + 1))
                    .map(|span| self.geometry.sectors(span))
                    .is_some_and(|range| traffic.in_flight.plain_in(range).next().is_some());
                // It will make the region dirty when it ends.
                if plain {
                    Difference::Known
                } else {
                    Difference::Again
                }
            }
        }
    }

    /// Whether that hold goes on.
    pub(crate) fn is_held(&self, number: u64) -> bool {
        let hold = self.traffic.lock().hold;
        hold.is_some_and(|(_, held)| held == number)
    }

    /// Has writes to a range wait while it is looked at, as it was in vain until now. Returns the
    /// hold's number, unless that may not be now: in `track` writes never wait.
    pub(crate) fn hold(&self, range: Range) -> Option<u64> {
        let mut traffic = self.traffic.lock();
        if !traffic.may_hold() || traffic.has_been_held(range) {
            return None;
        }
        traffic.holds += 1;
        traffic.hold = Some((range, traffic.holds));
        Some(traffic.holds)
    }
}
