// SPDX-License-Identifier: GPL-2.0

//! Writes that go past the table: those of `track`, of which nobody has to know before they end.
//!
//! Who looks at both devices has to know, as such a write may be on the backing device while its
//! region still counts as in sync: meanwhile they enter the table as all others do. So they do in
//! `mirror`, where a complete copy stays so.

use crate::abstractions::sync::srcu::{GracePeriod, Section, Srcu};
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// The way past the table.
///
/// A write that is on it began its section before the grace period that [`close`](Self::close)
/// begins: it is waited for. One whose section begins later sees what was stored before that, which
/// is that the way is closed. So none is on it any more when that period is over.
#[pin_data]
pub(super) struct Bypass {
    closed: Atomic<bool>,
    #[pin]
    sections: Srcu,
}

impl Bypass {
    /// Errors: `ENOMEM`.
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            closed: Atomic::new(false),
            sections <- Srcu::new(),
        })
    }

    /// A write begins; `None` where it may not pass. Context: process.
    #[inline]
    pub(super) fn enter(&self) -> Option<Section> {
        let section = self.sections.down_read();
        if self.closed.load(Relaxed) {
            self.sections.up_read(section);
            return None;
        }
        Some(section)
    }

    /// It has ended, and what it left is dirty. Context: any.
    #[inline]
    pub(super) fn leave(&self, section: Section) {
        self.sections.up_read(section);
    }

    /// No write passes from here on; those that do have ended when the period is over.
    pub(super) fn close(&self) -> GracePeriod {
        self.closed.store(true, Relaxed);
        self.sections.start_poll()
    }

    /// Whether that period is over.
    pub(super) fn is_over(&self, period: GracePeriod) -> bool {
        self.sections.poll(period)
    }

    /// Writes pass again.
    pub(super) fn open(&self) {
        self.closed.store(false, Relaxed);
    }
}
