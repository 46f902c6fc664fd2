// SPDX-License-Identifier: GPL-2.0

//! Flushes of the clone, and the way to `complete`. Context: process.

use super::{
    complete,
    engine::{Engine, Gate, Run},
    errors::Side,
    job::{self, Task},
    slot::Slot,
};
use kernel::{prelude::*, sync::Arc};

/// While jobs go on, the clone is flushed whenever so many sectors were written (1 GiB): that much
/// is copied again at most where it is lost.
const EVERY: u64 = 1 << 21;

/// Flushes the clone where that is due: while jobs go on now and then, and when nothing is left to
/// do. The scheduler calls this when it has begun all jobs that it can.
pub(super) fn consider(engine: &Arc<Engine>) {
    let mapping = &engine.mapping;
    let completing = {
        let mut shared = engine.shared.lock();
        if shared.gate == Gate::Shut || shared.detached || shared.flushing || shared.flush_failed {
            return;
        }
        let counts = mapping.regions.counts();
        let at_rest = shared.pool.out() == 0 && shared.plan.is_empty();
        if at_rest && counts.dirty > 0 && counts.dirty == counts.aside {
            // Nothing is left but what can't be read.
            shared.pause();
            engine.ended.notify_all();
        }
        let resting = at_rest && (counts.dirty == 0 || shared.run != Run::Started);
        let written = shared.unflushed.sectors();
        let completing = resting && counts.dirty == 0 && !mapping.phase.is_complete();
        if !(completing || resting && written > 0 || written >= EVERY) {
            return;
        }
        completing
    };
    if completing {
        mapping.phase.begin_completing();
        // Each count of the map lags behind; only a look at all regions after that step is true.
        if !mapping.regions.is_clean() {
            let _ = mapping.phase.step_back();
            return engine.wake();
        }
    }
    let slot = {
        let mut shared = engine.shared.lock();
        if shared.gate == Gate::Shut {
            None
        } else {
            shared.pool.take().inspect(|_| {
                shared.flushing = true;
                shared.unflushed.send();
            })
        }
    };
    if let Some(mut slot) = slot {
        slot.as_mut().bio_mut().prepare_flush(&engine.clone);
        job::submit(slot, engine.clone(), Task::Flush);
    }
}

/// A flush has ended.
pub(super) fn ended(slot: Pin<KBox<Slot>>, engine: Arc<Engine>, errno: c_int) {
    if errno == 0 {
        let mut shared = engine.shared.lock();
        shared.flushing = false;
        shared.unflushed.secured();
        drop(shared);
        if engine.mapping.phase.complete() {
            engine.mapped_device.raise_event();
        }
    } else {
        if engine.may_log() {
            pr_err!(
                "{}: flush of clone device {} failed with {}\n",
                engine.name,
                *engine.clone,
                errno
            );
        }
        // What it was to secure is dirty before anything else is said of it.
        engine.suspect_unflushed();
        complete::failed(&engine, Side::Clone, |shared| {
            shared.flushing = false;
            shared.flush_failed = true;
            shared.errors.add(Side::Clone, errno, 0, 0);
        });
    }
    engine.put_home(slot);
}

impl Engine {
    /// What was written on the clone since its last flush is dirty again.
    pub(super) fn suspect_unflushed(self: &Arc<Self>) {
        loop {
            let lost = self.shared.lock().unflushed.lost();
            match lost {
                Some(span) => self.wake_if(self.mapping.suspect(span)),
                None => return,
            }
        }
    }
}
