// SPDX-License-Identifier: GPL-2.0

//! What happens to the jobs where the device is suspended, resumed, or gets another table. Context:
//! process.

use super::{
    complete,
    engine::{Engine, Gate, Run, Shared},
    errors::ErrorList,
    job::{Claimed, Job},
    plan::Plan,
};
use crate::abstractions::{device_mapper::Suspend, workqueue};
use core::mem::swap;
use kernel::{prelude::*, sync::Arc};

impl Engine {
    /// A suspend begins; the user's I/O goes on for now. Unless it will copy the rest, jobs end
    /// here already, where a signal ends the wait; what it leaves is waited for in
    /// [`postsuspend`](Self::postsuspend).
    pub(crate) fn presuspend(self: &Arc<Self>, how: Suspend) {
        self.mapping.allow_holds(false);
        let mut shared = self.shared.lock();
        shared.hold_ends = None;
        shared.suspend = how;
        let copies_rest = shared.armed && how == Suspend::Flush;
        if !copies_rest {
            shared.gate = Gate::Closing;
        }
        drop(shared);
        self.unpark();
        if copies_rest {
            return;
        }
        let mut shared = self.shared.lock();
        while shared.pool.out() > 0 {
            if self.ended.wait_interruptible(&mut shared) {
                return;
            }
        }
    }

    /// The user's I/O has ended. After this nothing of ours is in flight.
    pub(crate) fn postsuspend(self: &Arc<Self>) {
        self.shut_and_drain();
        let ended_writes = self.mapped_device.ended_writes();
        let mut shared = self.shared.lock();
        shared.ended_writes = ended_writes;
        if shared.suspend == Suspend::Flush && core::mem::take(&mut shared.armed) {
            drop(shared);
            self.copy_rest();
        }
    }

    /// Jobs may begin.
    pub(crate) fn open(self: &Arc<Self>) {
        self.mapping.allow_holds(true);
        self.shared.lock().gate = Gate::Open;
        self.wake();
    }

    /// The job that waits for writes to end waits until then, unless no job may go on, or another
    /// one waits already.
    pub(super) fn park(self: &Arc<Self>, job: Job<Claimed>) {
        let mut shared = self.shared.lock();
        if shared.gate.lets_jobs_begin() && shared.parked.is_none() {
            shared.parked = Some(job);
            return;
        }
        drop(shared);
        complete::put_back(job);
    }

    /// The job that waits for writes to end gives up.
    fn unpark(self: &Arc<Self>) {
        let parked = self.shared.lock().parked.take();
        if let Some(job) = parked {
            complete::put_back(job);
        }
    }

    /// Ends all activity for good.
    pub(crate) fn stop(self: &Arc<Self>) {
        self.shut_and_drain();
        self.mapping.stop();
        workqueue::cancel(self);
        // The slots are home, but their workers may not have returned; each has a reference.
        self.jobs.flush();
        self.queue.flush();
    }

    /// Waits for the bios in flight, for as long as the devices need to end them.
    fn shut_and_drain(self: &Arc<Self>) {
        self.shared.lock().gate = Gate::Shut;
        self.unpark();
        let mut shared = self.shared.lock();
        while shared.is_busy() {
            self.ended.wait(&mut shared);
        }
    }

    /// Copies what is left, if that is little enough. No user's I/O makes more of it.
    fn copy_rest(self: &Arc<Self>) {
        let (left, most) = (
            self.mapping.regions.counts().dirty,
            self.policy.final_regions,
        );
        if left > most.into() {
            pr_warn!(
                "{}: finish: {} regions are left, which is more than {}: nothing is copied\n",
                self.name,
                left,
                most
            );
            return;
        }
        self.shared.lock().gate = Gate::Final;
        self.wake();
        let mut shared = self.shared.lock();
        while self.may_complete(&shared) {
            self.ended.wait(&mut shared);
        }
        drop(shared);
        self.shut_and_drain();
        if !self.mapping.phase.is_complete() {
            pr_warn!("{}: finish: the rest could not be copied\n", self.name);
        }
    }

    fn may_complete(&self, shared: &Shared) -> bool {
        shared.run == Run::Started && !shared.flush_failed && !self.mapping.phase.is_complete()
    }

    /// Whether nothing was written on the mapped device since this target was suspended, as far as
    /// that can be told: another table may have been live since, while the core is still about to
    /// destroy ours.
    pub(crate) fn is_up_to_date(&self) -> bool {
        let now = self.mapped_device.ended_writes();
        now.is_some() && now == self.shared.lock().ended_writes
    }

    /// Takes over the work of a target that is suspended and will not be resumed, before this one
    /// is. Allocates nothing: the device is suspended, so reclaim may wait for it.
    pub(crate) fn adopt(&self, other: &Self) {
        self.mapping.adopt(&other.mapping);

        // One lock after the other: nothing changes any more in the other.
        let mut errors = ErrorList::none();
        let mut plan = Plan::none();
        let mut theirs = other.shared.lock();
        swap(&mut theirs.errors, &mut errors);
        swap(&mut theirs.plan, &mut plan);
        let (run, armed, cursor, counters) =
            (theirs.run, theirs.armed, theirs.cursor, theirs.counters);
        let verify = theirs.verify.take();
        let (flush_failed, failed) = (theirs.flush_failed, theirs.failed);
        drop(theirs);

        plan.cut(self.mapping.geometry.regions());

        let mut ours = self.shared.lock();
        swap(&mut ours.plan, &mut plan);
        ours.cursor = cursor;
        ours.verify = verify;
        ours.counters = counters;
        ours.wrote = true;
        // A `start` may have come since the tables were swapped: it has forgotten what failed.
        let started = ours.run == Run::Started;
        if !started {
            if !other.mapping.is_attached() {
                self.mapping.detach();
            }
            swap(&mut ours.errors, &mut errors);
            ours.flush_failed = flush_failed;
            ours.failed = failed;
        }
        if ours.run == Run::Idle {
            ours.run = run;
            ours.armed = armed;
        }
        if ours.to_pause {
            ours.pause_all();
        }
        drop(ours);
        if started {
            self.mapping.regions.retry();
        }
    }

    /// Whether nothing was said to this engine.
    pub(crate) fn is_idle(&self) -> bool {
        let shared = self.shared.lock();
        shared.run == Run::Idle && !shared.to_pause
    }
}
