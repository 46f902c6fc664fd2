// SPDX-License-Identifier: GPL-2.0

//! What all the jobs of a target share.

use super::{
    job::{Flight, Leg},
    scheduler::Plan,
    slot::Slot,
};
use crate::{
    abstractions::{
        bio::{BioSet, SECTOR_SIZE},
        device_mapper::{Device, DeviceName},
        ratelimit::RateLimit,
        sync::lock::irq_spinlock::{new_irq_spinlock, IrqSpinLock},
        workqueue::{enqueue, OwnedQueue},
    },
    mapping::geometry::{Geometry, Range},
};
use kernel::{
    new_condvar, pr_warn_once,
    prelude::*,
    str::CString,
    sync::{Arc, CondVar},
};

/// How many jobs there are, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pipeline {
    /// The most jobs in flight.
    pub(crate) depth: u32,
    /// The most sectors of a job.
    pub(crate) batch: u32,
}

impl Pipeline {
    /// The memory that the jobs have, in bytes.
    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.depth) * u64::from(self.batch) * SECTOR_SIZE as u64
    }

    /// 8 jobs of 1 MiB.
    pub(crate) const DEFAULT: Self = Self {
        depth: 8,
        batch: 2048,
    };
    /// The largest `depth`.
    pub(crate) const MAX_DEPTH: u32 = 256;
    /// The largest `batch`: 8 MiB.
    pub(crate) const MAX_BATCH: u32 = 16384;
    /// What `batch` is a multiple of, whatever the devices' logical blocks are.
    pub(crate) const BATCH_UNIT: u32 = 8;
}

/// How far the copy is. Never more is shown as copied than was written.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Sectors written to the clone.
    pub(crate) copied: u64,
    /// Sectors asked for and not dealt with.
    pub(crate) queued: u64,
    /// Regions that jobs in flight work on.
    pub(crate) copying: u64,
    /// Jobs that could not read.
    pub(crate) read_errors: u64,
    /// Jobs that could not write.
    pub(crate) clone_errors: u64,
}

/// How a job ended.
pub(super) enum Outcome {
    Copied,
    ReadError,
    CloneError,
}

/// Why a range is not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The device is suspended.
    Suspended,
    /// It is not made of whole logical blocks of both devices.
    Unaligned,
    /// Too many ranges wait already.
    Full,
}

/// Whether jobs may begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Shut,
}

struct State {
    gate: Gate,
    plan: Plan,
    /// Has room for all slots; those that are not here are in flight.
    idle: KVec<Pin<KBox<Slot>>>,
    /// Those of the jobs in flight, no two of which overlap; has room for all.
    runs: KVec<Range>,
    progress: Progress,
}

/// The copying side of a target.
///
/// The owner ends it with [`Engine::stop`] before it drops its reference: jobs in flight have one
/// each, and theirs must not be the last, as the engine's queue can't be destroyed by its own work.
///
/// Locking: `state` is the only lock; under it only the wait queue's own is taken, and no bio is
/// submitted. Completions do not take it, but may as they learn to do more.
#[pin_data]
pub(crate) struct Engine {
    name: DeviceName,
    backing: Device,
    clone: Device,
    geometry: Geometry,
    pipeline: Pipeline,
    #[pin]
    state: IrqSpinLock<State>,
    /// Signalled when the last slot comes home.
    #[pin]
    all_home: CondVar,
    #[pin]
    log: RateLimit,
    queue: Arc<OwnedQueue>,
}

impl Engine {
    /// Allocates all that copying needs: the slots' memory is `depth` times `batch` sectors. The
    /// gate is shut.
    ///
    /// Context: process, may sleep. Errors: `ENOMEM`.
    pub(crate) fn new(
        name: DeviceName,
        backing: Device,
        clone: Device,
        geometry: Geometry,
        pipeline: Pipeline,
    ) -> Result<Arc<Self>> {
        let queue_name = CString::try_from_fmt(fmt!("clone-rs/{name}"))?;
        let queue = Arc::new(OwnedQueue::new(&queue_name)?, GFP_KERNEL)?;
        let set = Arc::pin_init(BioSet::new(pipeline.depth), GFP_KERNEL)?;
        let mut idle = KVec::with_capacity(pipeline.depth as usize, GFP_KERNEL)?;
        for _ in 0..pipeline.depth {
            let slot = Slot::new(queue.clone(), set.clone(), pipeline.batch)?;
            idle.push_within_capacity(slot).map_err(|_| ENOMEM)?;
        }
        let state = State {
            gate: Gate::Shut,
            plan: Plan::new(pipeline.depth)?,
            idle,
            runs: KVec::with_capacity(pipeline.depth as usize, GFP_KERNEL)?,
            progress: Progress::default(),
        };
        Arc::pin_init(
            pin_init!(Self {
                name,
                backing,
                clone,
                geometry,
                pipeline,
                state <- new_irq_spinlock!(state, "dm_clone_rs::Engine::state"),
                all_home <- new_condvar!("dm_clone_rs::Engine::all_home"),
                log <- RateLimit::new(c"dm_clone_rs: copy"),
                queue,
            }),
            GFP_KERNEL,
        )
    }

    /// Asks for a range to be copied; it begins at once, behind the ranges that wait already.
    ///
    /// Context: process; waits for nothing.
    pub(crate) fn copy(self: &Arc<Self>, range: Range) -> Result<(), Refused> {
        if !self.is_aligned(range) {
            return Err(Refused::Unaligned);
        }
        {
            let mut state = self.state.lock();
            if state.gate == Gate::Shut {
                return Err(Refused::Suspended);
            }
            state.plan.add(range).map_err(|_| Refused::Full)?;
            state.progress.queued += range.len();
        }
        self.wake();
        Ok(())
    }

    /// Lets jobs begin.
    pub(crate) fn open(self: &Arc<Self>) {
        self.state.lock().gate = Gate::Open;
        self.wake();
    }

    /// Lets no more jobs begin, and those that have read not write; what waits stays.
    ///
    /// Context: process; waits for nothing.
    pub(crate) fn shut(&self) {
        self.state.lock().gate = Gate::Shut;
    }

    /// Whether no jobs may begin, nor go on.
    pub(super) fn is_shut(&self) -> bool {
        self.state.lock().gate == Gate::Shut
    }

    /// Waits for the bios in flight, for as long as the devices need to end them.
    ///
    /// Context: process, with the gate shut.
    pub(crate) fn drain(&self) {
        let mut state = self.state.lock();
        while !self.are_all_home(&state) {
            self.all_home.wait(&mut state);
        }
    }

    /// The same, but gives up when a signal comes.
    pub(crate) fn drain_interruptibly(&self) {
        let mut state = self.state.lock();
        while !self.are_all_home(&state) {
            if self.all_home.wait_interruptible(&mut state) {
                return;
            }
        }
    }

    fn are_all_home(&self, state: &State) -> bool {
        state.idle.len() == self.pipeline.depth as usize
    }

    /// Ends all activity for good. Context: process.
    pub(crate) fn stop(&self) {
        self.shut();
        self.drain();
        // The slots are home, but their workers may not have returned; each has a reference.
        self.queue.flush();
    }

    /// How far the copy is.
    pub(crate) fn progress(&self) -> Progress {
        self.state.lock().progress
    }

    /// How many jobs there are, and how large.
    pub(crate) fn pipeline(&self) -> Pipeline {
        self.pipeline
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(super) fn backing(&self) -> &Device {
        &self.backing
    }

    pub(super) fn clone_device(&self) -> &Device {
        &self.clone
    }

    /// The mapped device, for the log.
    pub(super) fn name(&self) -> DeviceName {
        self.name
    }

    /// Whether an error may be logged now.
    pub(super) fn may_log(&self) -> bool {
        self.log.allows()
    }

    /// Takes a slot and a run for it, if there are both and jobs may begin.
    pub(super) fn take_work(&self) -> Option<(Pin<KBox<Slot>>, Range)> {
        let mut state = self.state.lock();
        if state.gate == Gate::Shut || state.idle.is_empty() {
            return None;
        }
        let State {
            plan,
            idle,
            runs,
            progress,
            ..
        } = &mut *state;
        // Of two writes in flight to one place on the clone, the one with the older data may come
        // last: a run waits for those that it overlaps, whose end looks for work again.
        let run = plan.next(self.pipeline.batch.into(), |run| {
            runs.iter().any(|other| run.overlaps(*other))
        })?;
        if runs.push_within_capacity(run).is_err() {
            pr_warn_once!("more jobs are in flight than there are\n");
        }
        progress.copying += self.geometry.regions_of(run);
        Some((idle.pop()?, run))
    }

    /// Records the end of a job.
    pub(super) fn account(&self, run: Range, outcome: Outcome) {
        let mut state = self.state.lock();
        self.end_run(&mut state, run);
        let progress = &mut state.progress;
        progress.queued = progress.queued.saturating_sub(run.len());
        match outcome {
            Outcome::Copied => progress.copied += run.len(),
            Outcome::ReadError => progress.read_errors += 1,
            Outcome::CloneError => progress.clone_errors += 1,
        }
    }

    /// Puts the run of a job back that may not go on.
    pub(super) fn put_back(&self, run: Range) {
        let mut state = self.state.lock();
        self.end_run(&mut state, run);
        state.plan.put_back(run);
    }

    /// The run is in flight no more.
    fn end_run(&self, state: &mut State, run: Range) {
        state.runs.retain(|other| *other != run);
        let copying = &mut state.progress.copying;
        *copying = copying.saturating_sub(self.geometry.regions_of(run));
    }

    /// Takes a slot back.
    pub(super) fn put_home(&self, slot: Pin<KBox<Slot>>) {
        let mut state = self.state.lock();
        if state.idle.push_within_capacity(slot).is_err() {
            pr_warn_once!("more slots came home than there are\n");
        }
        if self.are_all_home(&state) {
            self.all_home.notify_all();
        }
    }

    /// Sends an idle slot to the worker if there is something to begin. Without an idle slot there
    /// is a job in flight, whose end looks for work, too.
    fn wake(self: &Arc<Self>) {
        let slot = {
            let mut state = self.state.lock();
            if state.gate == Gate::Shut || state.plan.is_empty() {
                return;
            }
            state.idle.pop()
        };
        if let Some(mut slot) = slot {
            slot.as_mut().set_flight(Flight {
                engine: self.clone(),
                leg: Leg::Wake,
                status: None,
            });
            enqueue(slot);
        }
    }

    /// Whether the range is made of whole logical blocks of both devices.
    fn is_aligned(&self, range: Range) -> bool {
        [
            (&self.backing, self.geometry.backing_sector(range)),
            (&self.clone, self.geometry.clone_sector(range)),
        ]
        .into_iter()
        .all(|(device, sector)| {
            device.is_block_multiple(sector) && device.is_block_multiple(range.len())
        })
    }
}
