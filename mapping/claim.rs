// SPDX-License-Identifier: GPL-2.0

//! What a job does to the regions that it copies. Context: process where not said otherwise.

use super::{geometry::Range, region::Claim, Mapping};
use kernel::sync::Arc;

/// Regions that were claimed for a job.
#[derive(Clone, Copy)]
pub(crate) struct Claimed {
    pub(crate) claim: Claim,
    /// How often the clone may have lost something until then.
    pub(crate) losses: u64,
    /// Whether what the clone answers is of no use, see `Traffic::doubted`.
    pub(crate) doubted: bool,
    /// The number of its hold, where writes to them wait until they are copied.
    pub(crate) hold: Option<u64>,
}

impl Mapping {
    /// Claims the first regions from `from` up to `end` that may be copied, at most `most` adjacent
    /// ones, with `may_hold` also such that writes to them have to wait; `Err` says where to look
    /// on, as the job has to keep away from some for now.
    ///
    /// Regions with a hold are to be read only when they are [drained](Self::is_drained).
    pub(crate) fn claim(
        &self,
        (from, end): (u64, u64),
        most: u64,
        may_hold: bool,
    ) -> Option<Result<Claimed, u64>> {
        loop {
            let first = self.regions.first_claimable(from, end)?;
            let last = end.min(first.saturating_add(most));
            let span = self
                .geometry
                .span(first, last.min(self.geometry.regions()))?;
            let range = self.geometry.sectors(span);
            let mut traffic = self.traffic.lock();
            let holds = may_hold
                && self.regions.is_tried(first)
                && traffic.may_hold()
                && !traffic.has_been_held(range);
            let mut until = span.end();
            if !holds {
                // A write on its way to both devices, or a discard: nobody reads before it.
                if let Some(sector) = traffic.in_flight.conflict(range) {
                    until = self.geometry.region_of(sector);
                }
                if until <= first {
                    self.regions.tried(first);
                    traffic.watched = true;
                    return Some(Err(first + 1));
                }
            }
            let Some(claim) = self.regions.claim(first, until, holds) else {
                // It was discarded since it was found.
                continue;
            };
            let mut hold = None;
            if holds {
                traffic.holds += 1;
                hold = Some(traffic.holds);
                traffic.hold = Some((self.geometry.sectors(claim.span), traffic.holds));
                traffic.watched = true;
            }
            let (losses, doubted) = (traffic.losses, traffic.doubted);
            return Some(Ok(Claimed {
                claim,
                losses,
                doubted,
                hold,
            }));
        }
    }

    /// Whether nothing is on its way to regions with a hold any more: then they are not dirty from
    /// here on, and may be read.
    pub(crate) fn is_drained(&self, claim: Claim) -> bool {
        let mut traffic = self.traffic.lock();
        if traffic.in_flight.touches(self.geometry.sectors(claim.span)) {
            traffic.watched = true;
            return false;
        }
        self.regions.drained(claim);
        true
    }

    /// A job has copied its regions, see [`RegionMap::copied`](super::region::RegionMap::copied). A
    /// write that is on its way to the backing device only will make them dirty again: then they
    /// count as copied in vain.
    pub(crate) fn copied(&self, claim: Claim) {
        let traffic = self.traffic.lock();
        let range = self.geometry.sectors(claim.span);
        for plain in traffic.in_flight.plain_in(range) {
            if let Some(disturbed) = self.geometry.touched(plain).common(claim.span) {
                self.regions.copied(disturbed, true);
            }
        }
        self.regions.copied(claim.span, false);
    }

    /// That hold is over: the writes that wait for it go on. Returns whether it was not before.
    /// Context: any.
    pub(crate) fn end_hold(self: &Arc<Self>, number: u64) -> bool {
        self.end_hold_if(|hold| hold == number)
    }

    /// The same, whichever it is.
    pub(crate) fn end_any_hold(self: &Arc<Self>) {
        self.end_hold_if(|_| true);
    }

    fn end_hold_if(self: &Arc<Self>, is_it: impl FnOnce(u64) -> bool) -> bool {
        let mut traffic = self.traffic.lock();
        let ends = traffic.hold.is_some_and(|(_, number)| is_it(number));
        if ends {
            traffic.hold = None;
            self.kick();
        }
        ends
    }

    /// Whether jobs may have writes wait: not from presuspend to resume.
    pub(crate) fn allow_holds(self: &Arc<Self>, allowed: bool) {
        self.traffic.lock().may_hold = allowed;
        if !allowed {
            self.end_any_hold();
        }
    }

    /// Whether no write is in the table that will leave something dirty; else its end wakes.
    pub(crate) fn is_settled(&self) -> bool {
        let mut traffic = self.traffic.lock();
        let settled = traffic.in_flight.plain() == 0;
        traffic.watched |= !settled;
        settled
    }

    /// The regions that lie whole in `range` are not to be copied, until they are written to.
    ///
    /// Those to which something is on its way are left alone: that is a write to them.
    pub(crate) fn skip(&self, range: Range) {
        /// So many at a time, as nothing else goes on meanwhile.
        const AT_ONCE: u64 = 4096;

        let Some(span) = self.geometry.covered(range) else {
            return;
        };
        let mut first = span.first();
        while let Some(some) = self.geometry.span(first, span.end().min(first + AT_ONCE)) {
            let traffic = self.traffic.lock();
            let (until, next) = match traffic.in_flight.first_touched(self.geometry.sectors(some)) {
                Some(touched) => {
                    let touched = self.geometry.touched(touched);
                    (touched.first(), touched.end())
                }
                None => (some.end(), some.end()),
            };
            if let Some(free) = self.geometry.span(first, until) {
                self.regions.skip(free);
            }
            first = next;
        }
    }
}
