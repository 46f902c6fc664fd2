// SPDX-License-Identifier: GPL-2.0

//! What is known of the clone as a device: whether bios go there, what it may have lost, and what
//! users' writes do to it. Context: process where not said otherwise.

use super::{
    geometry::Range,
    stock::Stock,
    traffic::{Mode, Traffic},
    unflushed::Unflushed,
    Mapping, Wake,
};
use kernel::{
    prelude::*,
    sync::{atomic::Relaxed, Arc},
};

impl Mapping {
    /// From here on regions may be in sync.
    pub(crate) fn engage(&self) {
        self.change(|traffic| traffic.engaged = true);
    }

    /// The mode.
    pub(crate) fn mode(&self) -> Mode {
        self.traffic.lock().mode
    }

    /// Changes the mode. What is on its way ends by the rules by which it began. Errors: `ENOMEM`.
    pub(crate) fn set_mode(self: &Arc<Self>, mode: Mode) -> Result {
        let mut stock = Stock::empty();
        if mode == Mode::Mirror && !self.traffic.lock().is_stocked {
            stock = Stock::new(
                &self.queue,
                &self.geometry,
                self.legs.may_move(self.settings),
            )?;
        }
        self.change(|traffic| {
            traffic.mode = mode;
            // Another message may have been as fast: what it brought may be in use.
            if mode == Mode::Mirror && !traffic.is_stocked {
                core::mem::swap(&mut traffic.stock, &mut stock);
                traffic.is_stocked = true;
            }
        });
        // What waits for room may not need it any more.
        self.kick();
        Ok(())
    }

    /// Changes what it depends on whether writes go to both devices. Where they begin to, what went
    /// past the table until now may make something dirty yet: it is waited for before the copy is
    /// complete. The caller wakes.
    fn change(&self, change: impl FnOnce(&mut Traffic)) {
        let mut traffic = self.traffic.lock();
        change(&mut traffic);
        let mirrors = traffic.mode == Mode::Mirror && traffic.engaged;
        traffic.mirrored |= mirrors;
        let begins = mirrors && !self.mirrors.load(Relaxed);
        self.mirrors.store(mirrors, Relaxed);
        if begins {
            // A write that saw the old mode finds the way closed.
            traffic.passing = Some(self.bypass.close());
            let _ = self.phase.step_back();
        } else if !mirrors {
            traffic.passing = None;
            self.let_pass(&traffic);
        }
    }

    /// Writes may go past the table where nobody has to know of them.
    pub(super) fn let_pass(&self, traffic: &Traffic) {
        if !traffic.verifies && !self.mirrors.load(Relaxed) {
            self.bypass.open();
        }
    }

    /// Whether all writes have ended that went past the table before the mode was `mirror`; nobody
    /// tells when they have.
    pub(crate) fn none_passes(&self) -> bool {
        let mut traffic = self.traffic.lock();
        traffic.passing = (traffic.passing).filter(|&period| !self.bypass.is_over(period));
        traffic.passing.is_none()
    }

    /// Whether bios go to the clone. Context: any.
    pub(crate) fn is_attached(&self) -> bool {
        self.traffic.lock().attached
    }

    /// Bios go to the clone again.
    pub(crate) fn attach(&self) {
        self.traffic.lock().attached = true;
    }

    /// No bio goes to the clone from here on, which may have lost what was not flushed. Returns
    /// whether that is news. Context: any.
    pub(crate) fn detach(self: &Arc<Self>) -> bool {
        let mut traffic = self.traffic.lock();
        let news = core::mem::replace(&mut traffic.attached, false);
        if news {
            traffic.lose();
        }
        // What waits for room needs none now.
        if !traffic.waiting.is_empty() {
            self.kick();
        }
        news
    }

    /// The clone has lost what was not flushed; bios go there.
    pub(crate) fn lose(&self) -> Wake {
        self.traffic.lock().lose();
        self.step_back()
    }

    /// How often the clone may have lost what was written on it.
    pub(crate) fn losses(&self) -> u64 {
        self.traffic.lock().losses
    }

    /// All was copied and flushed since the clone last lost something, by the last flush.
    pub(crate) fn trust(&self) {
        let mut traffic = self.traffic.lock();
        if traffic.has_lost_nothing() {
            traffic.doubted = false;
        }
    }

    /// What was written on the clone since its last flush is dirty again. What is written later is
    /// known to be lost, or not, by [`losses`](Self::losses).
    pub(crate) fn suspect_unflushed(&self) -> Wake {
        let mut wake = Wake::No;
        let mut from = 0;
        loop {
            // A mark goes and its regions are dirty in one step: who finds none may rely on that.
            let mut traffic = self.traffic.lock();
            let Some((span, next)) = traffic.unflushed.lost(from) else {
                return wake;
            };
            from = next;
            self.regions.suspect(span, traffic.mirrored);
            drop(traffic);
            if self.step_back() == Wake::Yes {
                wake = Wake::Yes;
            }
        }
    }

    /// A range was written on the clone. Context: any.
    pub(crate) fn mark_unflushed(&self, range: Range) {
        self.traffic.lock().unflushed.mark(range);
    }

    /// Sectors written on the clone since a flush was sent.
    pub(crate) fn unflushed_sectors(&self) -> u64 {
        self.traffic.lock().unflushed.sectors()
    }

    /// Writes that have waited for a copy, and sectors of reads that the clone has answered.
    pub(crate) fn counters(&self) -> (u64, u64) {
        let traffic = self.traffic.lock();
        (traffic.held, traffic.fallback)
    }

    /// See [`Mapping::adopt`].
    pub(super) fn adopt_traffic(&self, other: &Self) {
        let mut unflushed = Unflushed::none(other.geometry);
        let (engaged, mirrored, doubted, counters) = {
            let mut theirs = other.traffic.lock();
            core::mem::swap(&mut theirs.unflushed, &mut unflushed);
            let counters = (theirs.held, theirs.fallback);
            let doubted = theirs.doubted || !theirs.attached;
            (theirs.engaged, theirs.mirrored, doubted, counters)
        };
        let mut ours = Unflushed::none(self.geometry);
        core::mem::swap(&mut self.traffic.lock().unflushed, &mut ours);
        ours.adopt(unflushed);
        self.change(|traffic| {
            core::mem::swap(&mut traffic.unflushed, &mut ours);
            traffic.engaged |= engaged;
            traffic.mirrored |= mirrored;
            traffic.doubted |= doubted;
            (traffic.held, traffic.fallback) = counters;
        });
    }
}
