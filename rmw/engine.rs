// SPDX-License-Identifier: GPL-2.0

//! What all the jobs of a target share.

use super::{
    complete,
    errors::{ErrorList, Side},
    job::{Claimed, Job},
    pace::Pace,
    plan::Plan,
    pool::{Pipeline, Pool},
    scheduler,
    slot::Slot,
    status::Counters,
    verify::Verify,
};
use crate::{
    abstractions::{
        bio::Op,
        device_mapper::{DeviceName, MappedDevice, Suspend},
        ratelimit::RateLimit,
        sync::lock::irq_spinlock::{new_irq_spinlock, IrqSpinLock},
        workqueue::{run_later, run_now, OwnedQueue, RepeatedItem},
    },
    mapping::{geometry::Range, Copier, Mapping, Wake},
};
use kernel::{
    impl_has_delayed_work, new_condvar, new_delayed_work, new_mutex,
    prelude::*,
    str::CString,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, CondVar, Mutex,
    },
    time::{msecs_to_jiffies, Delta},
    workqueue::{DelayedWork, WorkItem},
};

/// What happens when something can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnReadError {
    /// Copying pauses.
    Stop,
    /// All that can be read is copied, and the regions with the rest are put aside.
    Skip,
}

/// What happens when a run can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnCloneError {
    /// No bio goes to the clone until the next `start`.
    Detach,
    /// Copying pauses.
    Stop,
}

/// What a target was told once and for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) on_read_error: OnReadError,
    pub(crate) on_clone_error: OnCloneError,
    /// Copying starts at the first resume.
    pub(crate) autostart: bool,
    /// The most regions that a suspend copies which `finish` has armed.
    pub(crate) final_regions: u32,
    /// Zeroes are not written, the clone is told of them.
    pub(crate) sparse: bool,
    /// What the clone has already is not written.
    pub(crate) delta: bool,
    /// What can't be read becomes zeroes on the clone.
    pub(crate) fill_bad: bool,
}

impl Policy {
    pub(crate) const DEFAULT: Self = Self {
        on_read_error: OnReadError::Stop,
        on_clone_error: OnCloneError::Detach,
        autostart: false,
        final_regions: 4096,
        sparse: false,
        delta: false,
        fill_bad: false,
    };
}

/// Whether jobs may begin, as far as device-mapper is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// The device is being suspended: users' flushes still reach the clone.
    Closing,
    /// The device is suspended, or was never resumed.
    Shut,
    /// The device is suspended, and the rest is being copied.
    Final,
}

/// What the administrator has said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    Idle,
    Started,
    Paused,
}

/// What the engine's lock protects.
pub(super) struct Shared {
    pub(super) gate: Gate,
    pub(super) run: Run,
    /// Whether it was to pause since the last `start`: so does what another target did, whose state
    /// is taken over after that.
    pub(super) to_pause: bool,
    /// Whether the next suspend that flushes copies the rest.
    pub(super) armed: bool,
    /// The kind of the last suspend.
    pub(super) suspend: Suspend,
    /// How many writes the mapped device had ended at the last suspend, see
    /// [`MappedDevice::ended_writes`].
    pub(super) ended_writes: Option<u64>,
    pub(super) pool: Pool,
    pub(super) plan: Plan,
    pub(super) pace: Pace,
    /// The next region of the pass; it is over where there is none.
    pub(super) cursor: u64,
    pub(super) verify: Verify,
    /// Whether a job in flight is not of the idle class.
    pub(super) urgent_job: bool,
    /// The job that has writes wait, until nothing is on its way to its regions any more.
    pub(super) parked: Option<Job<Claimed>>,
    /// When the writes that wait for a job go on without it, unless some of it is done before.
    pub(super) hold_ends: Option<i64>,
    /// When a job may have writes wait again.
    pub(super) hold_from: i64,
    /// What flushes the clone; it is away while a flush is in flight.
    pub(super) flusher: Option<Pin<KBox<Slot>>>,
    /// Whether that flush is to make the copy complete.
    pub(super) completes: bool,
    /// Whether jobs have written since a flush was sent.
    pub(super) wrote: bool,
    /// Whether the clone could not be flushed since the last `start`.
    pub(super) flush_failed: bool,
    /// Whether anything failed since the last `start`.
    pub(super) failed: bool,
    /// How often what is put aside was to be tried again.
    pub(super) retries: u64,
    pub(super) errors: ErrorList,
    pub(super) counters: Counters,
}

/// So many jobs go on at a time where a bio of them has ended: where a device works in the
/// submitter's context, more would only wait for each other.
const JOBS_AT_WORK: u16 = 2;

/// The copying side of a target.
///
/// The owner ends it with [`Engine::stop`] before it drops its reference: its works have one each,
/// and theirs must not be the last, as the engine's queue can't be destroyed by its own work.
///
/// Locking: `shared` may be taken in any context. Under it only the mapping's lock and those of
/// wait queues and workqueues are taken, no bio is submitted, and no slot is freed. `message` and
/// `failing` are taken before it, and not together.
#[pin_data]
pub(crate) struct Engine {
    pub(super) name: DeviceName,
    pub(super) mapped_device: Arc<MappedDevice>,
    pub(super) mapping: Arc<Mapping>,
    pub(super) policy: Policy,
    #[pin]
    pub(super) shared: IrqSpinLock<Shared>,
    /// Held by messages that take more than one step.
    #[pin]
    pub(super) message: Mutex<()>,
    /// Held by who stops copying for something that failed, and by who starts it again: neither
    /// sees the other halfway. So what runs has a clone that is attached, and bios go to one again
    /// only when all is dirty that it may have lost.
    #[pin]
    pub(super) failing: Mutex<()>,
    /// Signalled when the last slot comes home, and when copying ends.
    #[pin]
    pub(super) ended: CondVar,
    /// Whether the clone has refused to write zeroes by itself.
    refuses_zeroes: Atomic<bool>,
    #[pin]
    log: RateLimit,
    #[pin]
    scheduler: DelayedWork<Engine>,
    pub(super) queue: Arc<OwnedQueue>,
    /// That of the slots.
    pub(super) jobs: Arc<OwnedQueue>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Engine { self.scheduler }
}

impl RepeatedItem for Engine {
    fn queue(&self) -> &OwnedQueue {
        &self.queue
    }
}

impl WorkItem for Engine {
    type Pointer = Arc<Self>;

    fn run(engine: Arc<Self>) {
        scheduler::run(&engine);
    }
}

impl Copier for Engine {
    fn wake(self: Arc<Self>) {
        Self::wake(&self);
    }

    fn clone_failed(self: Arc<Self>, op: Op, range: Range, errno: c_int) {
        complete::record(&self, Side::Clone, op, range, errno);
    }
}

impl Engine {
    /// Allocates all that copying needs: the slots' memory is `depth` times `batch` sectors. The
    /// gate is shut.
    ///
    /// Context: process, may sleep. Errors: `ENOMEM`.
    pub(crate) fn new(
        name: DeviceName,
        mapped_device: Arc<MappedDevice>,
        mapping: Arc<Mapping>,
        queue: Arc<OwnedQueue>,
        pipeline: Pipeline,
        rate: u32,
        policy: Policy,
    ) -> Result<Arc<Self>> {
        let jobs_name = CString::try_from_fmt(fmt!("clone-rs-jobs/{name}"))?;
        let jobs = Arc::new(OwnedQueue::new(&jobs_name, JOBS_AT_WORK)?, GFP_KERNEL)?;
        // What flushes needs next to no memory.
        let flusher = Pipeline { depth: 1, batch: 8 }
            .slots(0, 1, &mapping.geometry, &queue)?
            .pop();
        let shared = Shared {
            gate: Gate::Shut,
            run: Run::Idle,
            to_pause: false,
            armed: false,
            suspend: Suspend::Flush,
            ended_writes: None,
            pool: Pool::new(pipeline, &mapping.geometry, &jobs)?,
            plan: Plan::new()?,
            pace: Pace::new(rate),
            cursor: u64::MAX,
            verify: Verify::none(),
            urgent_job: false,
            parked: None,
            hold_ends: None,
            hold_from: 0,
            flusher,
            completes: false,
            wrote: false,
            flush_failed: false,
            failed: false,
            retries: 0,
            errors: ErrorList::new()?,
            counters: Counters::default(),
        };
        Arc::pin_init(
            pin_init!(Self {
                name,
                mapped_device,
                mapping,
                policy,
                shared <- new_irq_spinlock!(shared, "dm_clone_rs::Engine::shared"),
                message <- new_mutex!((), "dm_clone_rs::Engine::message"),
                failing <- new_mutex!((), "dm_clone_rs::Engine::failing"),
                ended <- new_condvar!("dm_clone_rs::Engine::ended"),
                refuses_zeroes: Atomic::new(false),
                log <- RateLimit::new(c"dm_clone_rs: copy"),
                scheduler <- new_delayed_work!("dm_clone_rs::Engine::scheduler"),
                queue,
                jobs,
            }),
            GFP_KERNEL,
        )
    }

    /// Has the scheduler look for work. Context: any.
    pub(crate) fn wake(self: &Arc<Self>) {
        let shared = self.shared.lock();
        // Under the lock, so that nothing is queued any more once the gate is shut for good.
        if shared.gate != Gate::Shut {
            run_now(self);
        }
    }

    /// The same, where a change asks for it.
    #[inline]
    pub(crate) fn wake_if(self: &Arc<Self>, wake: Wake) {
        match wake {
            Wake::Yes => self.wake(),
            Wake::No => {}
        }
    }

    /// Has the scheduler look for work later, if it is not to look before anyway.
    pub(super) fn wake_in(self: &Arc<Self>, delay: Delta) {
        let millis = delay.as_micros_ceil() / 1000 + 1;
        let delay = msecs_to_jiffies(millis.try_into().unwrap_or(u32::MAX));
        let shared = self.shared.lock();
        if shared.gate != Gate::Shut {
            run_later(self, delay);
        }
    }

    /// Takes back a slot whose task has ended. Context: process.
    pub(super) fn put_home(self: &Arc<Self>, slot: Pin<KBox<Slot>>) {
        self.put_back(slot);
        self.wake();
    }

    /// Takes back a slot, of whatever use it was; a suspend may wait for it.
    pub(super) fn put_back(&self, slot: Pin<KBox<Slot>>) {
        let mut shared = self.shared.lock();
        let of_no_use = shared.pool.put(slot);
        if !shared.is_busy() {
            self.ended.notify_all();
        }
        drop(shared);
        drop(of_no_use);
    }

    /// Whether jobs may neither begin nor go on.
    pub(super) fn is_barred(&self) -> bool {
        let gate = self.shared.lock().gate;
        !gate.lets_jobs_begin() || !self.mapping.is_attached()
    }

    /// Whether the clone can be told to write zeroes.
    pub(super) fn writes_zeroes(&self) -> bool {
        self.mapping.legs.clone.can_write_zeroes() && !self.refuses_zeroes.load(Relaxed)
    }

    /// The clone has refused to; it is not asked again.
    pub(super) fn zeroes_refused(&self) {
        self.refuses_zeroes.store(true, Relaxed);
    }

    /// Whether a job that has come to something bad gives up: copying has paused since, and nobody
    /// has asked for a range (those are forgotten when it pauses).
    pub(super) fn has_paused(&self) -> bool {
        let shared = self.shared.lock();
        shared.run != Run::Started && shared.plan.is_empty()
    }

    /// Whether an error may be logged now.
    pub(super) fn may_log(&self) -> bool {
        self.log.allows()
    }
}

impl Gate {
    /// Whether jobs may begin, and go on.
    pub(super) fn lets_jobs_begin(self) -> bool {
        match self {
            Self::Open | Self::Final => true,
            Self::Closing | Self::Shut => false,
        }
    }
}

impl Shared {
    /// Whether a bio of ours is in flight, or about to be.
    pub(super) fn is_busy(&self) -> bool {
        self.pool.out() > 0 || self.is_flushing()
    }

    /// Whether one more job may be in flight, beside at most so many: also where none of them is
    /// urgent, as all may be of the idle class, and not be served while users go on.
    pub(super) fn has_room(&self, most: u32) -> bool {
        self.pool.out() < most || !self.urgent_job
    }

    /// How many jobs are in flight that copy.
    pub(super) fn copies(&self) -> u32 {
        self.pool.out().saturating_sub(self.verify.looks())
    }

    /// Whether a flush of the clone is in flight.
    pub(super) fn is_flushing(&self) -> bool {
        self.flusher.is_none()
    }

    /// What has failed is forgotten, and will be tried again: what is put aside from here on was
    /// tried after that.
    pub(super) fn forget_errors(&mut self) {
        self.retries += 1;
        self.flush_failed = false;
        self.failed = false;
        self.errors.clear();
    }

    /// Copying pauses, whatever it did.
    pub(super) fn pause(&mut self) {
        if self.run == Run::Started {
            self.run = Run::Paused;
        }
        self.armed = false;
    }

    /// The same, and what was asked for is forgotten.
    pub(super) fn pause_all(&mut self) {
        self.pause();
        self.plan.clear();
        self.verify.stop();
    }

    /// Something was done of what writes wait for: they go on waiting. So a hold ends with its
    /// copy, or after [`Pace::HOLD`] in which nothing was done.
    pub(super) fn go_on_holding(&mut self, mapping: &Mapping, number: u64) {
        if mapping.is_held(number) {
            self.hold_on();
        }
    }

    /// From now on writes wait for at most [`Pace::HOLD`], if nothing is done meanwhile.
    pub(super) fn hold_on(&mut self) {
        self.hold_ends = Some(self.pace.now() + Pace::HOLD.as_nanos());
    }

    /// The writes that wait for a hold are admitted anew.
    pub(super) fn end_hold(&mut self, mapping: &Arc<Mapping>, number: u64) {
        if mapping.end_hold(number) {
            self.hold_ends = None;
        }
    }
}
