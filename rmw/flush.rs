// SPDX-License-Identifier: GPL-2.0

//! Flushes of the clone, and the way to `complete`. Context: process.

use super::{
    complete,
    engine::{Engine, Gate, Run, Shared},
    errors::Side,
    job::{self, Task},
    pace::{Pace, POLL},
    slot::Slot,
};
use kernel::{prelude::*, sync::Arc};

/// While jobs go on, the clone is flushed whenever so many sectors were written (1 GiB): that much
/// is copied again at most where it is lost.
const EVERY: u64 = 1 << 21;

/// Flushes the clone now and then while jobs go on. The scheduler calls this before it gives all
/// slots to jobs.
pub(super) fn now_and_then(engine: &Arc<Engine>) {
    let due = engine.mapping.unflushed_sectors() >= EVERY;
    if due || engine.mapping.wants_flush() {
        submit(engine, false);
    }
}

/// Flushes the clone when nothing is left to do. The scheduler calls this when it has begun all
/// jobs that it can; it `waits` if it will look for more by itself.
pub(super) fn at_rest(engine: &Arc<Engine>, waits: bool) {
    let mapping = &engine.mapping;
    let counts = {
        let shared = engine.shared.lock();
        let idle = shared.gate.lets_jobs_begin() && shared.copies() == 0 && shared.plan.is_empty();
        if !idle || !may_flush(engine, &shared) {
            return;
        }
        let counts = mapping.regions.counts();
        if counts.dirty > 0 && shared.run == Run::Started {
            None
        } else if counts.dirty > 0 && !is_worth_it(&shared, mapping.unflushed_sectors()) {
            return;
        } else {
            Some(counts)
        }
    };
    match counts {
        None if gives_up(engine) => {}
        // Something was made dirty after the scheduler had looked, when nobody was told of it; or
        // nothing is dirty any more, which is not counted yet.
        None => {
            // The end of what is out wakes anyway.
            if !waits && engine.shared.lock().pool.out() == 0 {
                engine.wake_in(Pace::SOON);
            }
        }
        Some(counts) if counts.dirty > 0 => submit(engine, false),
        Some(_) if mapping.phase.is_complete() => {}
        // Asked here, too, as the look at all regions takes time, and users' flushes wait after
        // `begin_completing`.
        Some(_) if !mapping.none_passes() => engine.wake_in(POLL),
        Some(_) => {
            mapping.phase.begin_completing();
            // The counts of the map lag behind; only a look at all regions after that step is true.
            if mapping.regions.is_clean() {
                // What is on its way to the backing device only will leave something dirty.
                match (mapping.is_settled(), mapping.none_passes()) {
                    (true, true) => submit(engine, true),
                    (true, false) => engine.wake_in(POLL),
                    (false, _) => {}
                }
            } else {
                let _ = mapping.phase.step_back();
                engine.wake();
            }
        }
    }
}

/// Whether a flush is worth it that completes nothing: what only users have written, on both
/// devices, waits until there is more of it.
fn is_worth_it(shared: &Shared, unflushed: u64) -> bool {
    unflushed > 0 && (shared.wrote || unflushed >= EVERY)
}

/// Where nothing is left but what can't be read copying pauses; says whether that is so.
fn gives_up(engine: &Arc<Engine>) -> bool {
    // What is to be tried again is so before this look, or is started again after it.
    let _failing = engine.failing.lock();
    let gives_up = engine.mapping.regions.has_only_aside();
    if gives_up {
        engine.shared.lock().pause();
        engine.ended.notify_all();
        engine.wake();
    }
    gives_up
}

/// Sends a flush, where it may be sent; it `completes` the copy, if nothing is made dirty
/// meanwhile.
fn submit(engine: &Arc<Engine>, completes: bool) {
    let slot = {
        let mut shared = engine.shared.lock();
        if may_flush(engine, &shared) {
            shared.completes = completes;
            shared.wrote = false;
            // In one step with that question: what was lost before is dirty.
            engine.mapping.begin_flush();
            shared.flusher.take()
        } else {
            None
        }
    };
    if let Some(slot) = slot {
        job::hand_over(slot, engine.clone(), Task::SendFlush);
    }
}

/// The flush goes to the clone, where it may have to wait for a request: not in the scheduler,
/// which ends what users wait for. Context: process.
pub(super) fn send(mut slot: Pin<KBox<Slot>>, engine: Arc<Engine>) {
    slot.as_mut()
        .bio_mut()
        .prepare_flush(&engine.mapping.legs.clone);
    job::submit(slot, engine, Task::Flush);
}

/// Whether a flush may be sent: one at a time, none to a clone that could not be flushed.
fn may_flush(engine: &Engine, shared: &Shared) -> bool {
    shared.gate != Gate::Shut
        && !shared.is_flushing()
        && !shared.flush_failed
        && engine.mapping.is_attached()
}

/// A flush has ended.
pub(super) fn ended(slot: Pin<KBox<Slot>>, engine: Arc<Engine>, errno: c_int) {
    if errno == 0 {
        let secured = engine.mapping.flush_secured();
        let completes = engine.shared.lock().completes;
        if !secured {
            // As below; who lost the clone may be at it.
            engine.suspect_unflushed();
        } else if completes && engine.mapping.phase.complete() {
            engine.mapping.trust();
            engine.mapped_device.raise_event();
        }
    } else {
        if engine.may_log() {
            pr_err!(
                "{}: flush of clone device {} failed with {}\n",
                engine.name,
                *engine.mapping.legs.clone,
                errno
            );
        }
        // What it was to secure is dirty before anything else is said of it.
        engine.wake_if(engine.mapping.lose());
        engine.suspect_unflushed();
        complete::failed(&engine, Side::Clone, |shared| {
            shared.flush_failed = true;
            shared.errors.add(Side::Clone, errno, 0, 0);
        });
    }
    engine.mapping.end_riding();
    if errno != 0 {
        engine.mapping.end_waiting();
    }
    let mut shared = engine.shared.lock();
    shared.flusher = Some(slot);
    if !shared.is_busy() {
        engine.ended.notify_all();
    }
    drop(shared);
    engine.wake();
}

impl Engine {
    /// What was written on the clone since its last flush is dirty again.
    pub(super) fn suspect_unflushed(self: &Arc<Self>) {
        self.wake_if(self.mapping.suspect_unflushed());
    }
}
