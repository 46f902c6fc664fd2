// SPDX-License-Identifier: GPL-2.0

//! What an administrator says. Nothing here waits for I/O. Context: process.

use super::{
    engine::{Engine, Gate, Run},
    pool::Pipeline,
};
use crate::{
    abstractions::{device_mapper::Text, mm},
    mapping::{
        geometry::{Geometry, Range},
        region::RegionMap,
        Mode,
    },
};
use kernel::{prelude::*, sync::Arc};

/// Why something is not done; nothing was changed, but that what was to be copied may be dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The device is suspended.
    Suspended,
    /// No bio goes to the clone before the next `start`.
    Detached,
    /// Too many ranges wait already.
    Full,
    /// Nothing was started that could be finished, or tried again.
    NotStarted,
    /// What was started is paused.
    Paused,
    /// There is no memory for it, or it would take too much of it.
    NoMemory,
}

impl Engine {
    /// The most memory that a target may take, in bytes: an eighth of the machine's.
    pub(crate) fn fits_memory(pipeline: Pipeline, geometry: &Geometry) -> bool {
        let bytes = pipeline.bytes(geometry);
        let bytes = bytes.saturating_add(RegionMap::bytes(geometry.regions()));
        bytes <= mm::total_memory() / 8
    }

    /// Begins to copy, or goes on, now or at the next resume. What failed is forgotten and tried
    /// again, also a clone that was detached.
    pub(crate) fn start(self: &Arc<Self>) {
        let _failing = self.failing.lock();
        // What is put aside before this is released below; what would be after it is tried again.
        self.shared.lock().forget_errors();
        // Before the scheduler may look for what is left.
        self.mapping.regions.retry();
        self.mapping.engage();
        let mut shared = self.shared.lock();
        // Together with the rest, as a state that is being taken over may be a detached one.
        self.mapping.attach();
        shared.run = Run::Started;
        shared.to_pause = false;
        shared.flush_failed = false;
        let shut = shared.gate == Gate::Shut;
        if shut {
            // Another target's state may have been taken over since.
            shared.forget_errors();
        }
        drop(shared);
        if shut {
            self.mapping.regions.retry();
        }
        self.wake();
    }

    /// Tries again what could not be read, which is forgotten, and a flush of the clone; goes on
    /// where copying has paused.
    pub(crate) fn retry(self: &Arc<Self>) -> Result<(), Refused> {
        let _failing = self.failing.lock();
        let mut shared = self.shared.lock();
        if shared.gate != Gate::Open {
            return Err(Refused::Suspended);
        }
        if !self.mapping.is_attached() {
            return Err(Refused::Detached);
        }
        if shared.run == Run::Idle {
            return Err(Refused::NotStarted);
        }
        shared.errors.forget_reads();
        shared.flush_failed = false;
        shared.retries += 1;
        drop(shared);
        // Before the scheduler may look for what is left, and pause where there is nothing else.
        self.mapping.regions.retry();
        self.shared.lock().run = Run::Started;
        self.wake();
        Ok(())
    }

    /// Begins no more jobs, and forgets the ranges that were asked for, which stay dirty; jobs in
    /// flight end, and then the clone is flushed. A verify ends, too.
    pub(crate) fn pause(self: &Arc<Self>) {
        let mut shared = self.shared.lock();
        shared.to_pause = true;
        shared.pause_all();
        self.ended.notify_all();
        drop(shared);
        self.wake();
    }

    /// Has the next suspend that flushes copy the rest.
    pub(crate) fn finish(&self) -> Result<(), Refused> {
        let mut shared = self.shared.lock();
        if shared.gate != Gate::Open {
            return Err(Refused::Suspended);
        }
        match shared.run {
            Run::Idle => return Err(Refused::NotStarted),
            Run::Paused => return Err(Refused::Paused),
            Run::Started => shared.armed = true,
        }
        Ok(())
    }

    /// Has the regions that a range touches copied, whatever they are, before all others.
    pub(crate) fn copy(self: &Arc<Self>, range: Range) -> Result<(), Refused> {
        let span = self.mapping.geometry.touched(range);
        // Nobody else makes the plan longer.
        let _message = self.message.lock();
        self.may_plan()?;
        self.mapping.engage();
        // Before the scheduler may look for them.
        let wake = self.mapping.dirty(span);
        let mut shared = self.shared.lock();
        let jobs = shared.copies() > 0;
        // The plan is emptied in one step with that.
        let added = if self.mapping.is_attached() {
            shared.plan.add(span, jobs).map_err(|_| Refused::Full)
        } else {
            Err(Refused::Detached)
        };
        drop(shared);
        self.wake_if(wake);
        self.wake();
        added
    }

    fn may_plan(&self) -> Result<(), Refused> {
        let shared = self.shared.lock();
        if shared.gate != Gate::Open {
            Err(Refused::Suspended)
        } else if !self.mapping.is_attached() {
            Err(Refused::Detached)
        } else if shared.plan.is_full() {
            Err(Refused::Full)
        } else {
            Ok(())
        }
    }

    /// Compares both devices where they are in sync, unless that goes on already.
    pub(crate) fn verify(self: &Arc<Self>) -> Result<(), Refused> {
        let mut shared = self.shared.lock();
        if shared.gate != Gate::Open {
            return Err(Refused::Suspended);
        }
        if !self.mapping.is_attached() {
            return Err(Refused::Detached);
        }
        shared.verify.start();
        drop(shared);
        self.wake();
        Ok(())
    }

    /// The regions that lie whole in a range are not to be copied, until they are written to.
    pub(crate) fn skip(self: &Arc<Self>, range: Range) -> Result<(), Refused> {
        if self.shared.lock().gate != Gate::Open {
            return Err(Refused::Suspended);
        }
        self.mapping.skip(range);
        self.wake();
        Ok(())
    }

    /// Changes what user writes do to the clone.
    pub(crate) fn set_mode(self: &Arc<Self>, mode: Mode) -> Result<(), Refused> {
        let _message = self.message.lock();
        if self.shared.lock().gate != Gate::Open {
            return Err(Refused::Suspended);
        }
        self.mapping.set_mode(mode).map_err(|_| Refused::NoMemory)?;
        self.wake();
        Ok(())
    }

    /// Sets the bound, in KiB a second, 0 for none.
    pub(crate) fn set_rate(self: &Arc<Self>, rate: u32) {
        self.shared.lock().pace.set_rate(rate);
        self.wake();
    }

    /// Changes how many jobs there are, or how large.
    pub(crate) fn tune(
        self: &Arc<Self>,
        change: impl FnOnce(Pipeline) -> Pipeline,
    ) -> Result<(), Refused> {
        let _message = self.message.lock();
        let pipeline = {
            let shared = self.shared.lock();
            if shared.gate != Gate::Open {
                return Err(Refused::Suspended);
            }
            change(shared.pool.pipeline())
        };
        if !Self::fits_memory(pipeline, &self.mapping.geometry) {
            return Err(Refused::NoMemory);
        }
        loop {
            let (missing, generation) = self.shared.lock().pool.missing(pipeline);
            let mut slots = pipeline
                .slots(generation, missing, &self.mapping.geometry, &self.jobs)
                .map_err(|_| Refused::NoMemory)?;
            // For those that will be of no use, and as the pool's own room.
            slots
                .reserve(Pipeline::MAX_DEPTH as usize, GFP_KERNEL)
                .map_err(|_| Refused::NoMemory)?;
            // More may be missing by now, as jobs that end take surplus slots away.
            let changed = self.shared.lock().pool.change(pipeline, &mut slots);
            if changed {
                break;
            }
        }
        self.wake();
        Ok(())
    }

    /// Writes what has failed since the last `start`.
    pub(crate) fn write_errors(&self, text: &mut Text<'_>) {
        // A full text is cut off, which the core sees and handles.
        let _ = self.shared.lock().errors.write(text);
    }
}
