// SPDX-License-Identifier: GPL-2.0

//! Flushes of the users' that the clone has to see, too.
//!
//! From the moment that the copy is completing, a user's flush ends only when the clone was flushed
//! as well, by a flush that was sent after it came: what the user heard of before is on both media
//! then. Flushes of the clone go one after another (see `rmw::flush`), so one serves all that came
//! before it. A user's flush has the status of the backing device; what the clone could not secure
//! is dirty before it ends.

use super::{route::Effect, Mapping};
use crate::abstractions::device_mapper::{MapResult, MappedBio, ShareList};
use kernel::sync::Arc;

/// Users' flushes that go on to the backing device, and end no sooner than these shares of them.
/// Locking: its owner's.
pub(super) struct Flushes {
    /// They wait for a flush of the clone that is still to be sent.
    waiting: ShareList,
    /// Those that the flush in flight serves.
    riding: ShareList,
}

impl Flushes {
    pub(super) const fn new() -> Self {
        Self {
            waiting: ShareList::new(),
            riding: ShareList::new(),
        }
    }
}

impl Mapping {
    /// Sends a user's flush on its way. Context: process.
    ///
    /// A write takes the lock before its user hears of its end, and this takes it after that. So
    /// does a flush of the clone as it is sent, after the step to `completing`. If that flush comes
    /// before the write, then that step is seen here; else it secures the write.
    pub(super) fn map_flush<'a>(self: &Arc<Self>, mut bio: MappedBio<'a, Effect>) -> MapResult<'a> {
        let mut traffic = self.traffic.lock();
        // Also in `track`: it may have been `mirror` a moment ago.
        let both = traffic.mirrored && traffic.attached && self.phase.is_completing();
        if both {
            traffic.flushes.waiting.push(bio.share());
        }
        drop(traffic);
        if both {
            self.wake_copier();
        }
        // It has no range. dm-linear's go to sector 0, too.
        bio.remap(&self.legs.backing, 0)
    }

    /// Whether a user's flush waits for one of the clone that is still to be sent.
    pub(crate) fn wants_flush(&self) -> bool {
        !self.traffic.lock().flushes.waiting.is_empty()
    }

    /// The clone's flush is about to be sent; the one before has ended.
    pub(crate) fn begin_flush(&self) {
        let mut traffic = self.traffic.lock();
        let traffic = &mut *traffic;
        traffic.flushes.riding.append(&mut traffic.flushes.waiting);
        traffic.unflushed.send();
        traffic.losses_at_flush = traffic.losses;
    }

    /// It has succeeded. Says whether the clone has lost nothing since it was sent: else it may
    /// have lost what this was to secure, and has had nothing left to be flushed.
    pub(crate) fn flush_secured(&self) -> bool {
        let mut traffic = self.traffic.lock();
        let secured = traffic.has_lost_nothing();
        if secured {
            traffic.unflushed.secured();
        }
        secured
    }

    /// The clone's flush has ended, and what it could not secure is dirty: the flushes that it has
    /// served end. Context: process.
    pub(crate) fn end_riding(&self) {
        let riding = core::mem::replace(&mut self.traffic.lock().flushes.riding, ShareList::new());
        drop(riding);
    }

    /// The clone is not flushed any more, and does not count as complete: no flush waits for it.
    /// Context: process.
    pub(crate) fn end_waiting(&self) {
        let waiting =
            core::mem::replace(&mut self.traffic.lock().flushes.waiting, ShareList::new());
        drop(waiting);
    }
}
