// SPDX-License-Identifier: GPL-2.0

//! A workqueue of one's own.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use core::ptr::NonNull;
use kernel::{
    bindings, pr_warn_once,
    prelude::*,
    sync::Arc,
    time::Jiffies,
    workqueue::{HasDelayedWork, HasWork, Work, WorkItem},
};

/// An unbound workqueue that makes progress under memory pressure (`WQ_MEM_RECLAIM`).
///
/// Dropping it waits for its work (`destroy_workqueue`): not to be done by its own work, nor in
/// atomic context.
///
/// # Invariants
///
/// The pointer is to a workqueue that `alloc_workqueue` made and nobody else destroys.
pub(crate) struct OwnedQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: A workqueue is usable from any thread.
unsafe impl Send for OwnedQueue {}
// SAFETY: As above.
unsafe impl Sync for OwnedQueue {}

impl OwnedQueue {
    /// Allocates a queue (`alloc_workqueue`) of whose work at most `most` runs at a time, or as
    /// much as the kernel sees fit where that is 0.
    ///
    /// Context: process, may sleep. Errors: `ENOMEM`.
    pub(crate) fn new(name: &CStr, most: u16) -> Result<Self> {
        // SAFETY: The format takes one string, and copies it.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                bindings::wq_flags_WQ_MEM_RECLAIM | bindings::wq_flags_WQ_UNBOUND,
                most.into(),
                name.as_char_ptr(),
            )
        };
        // INVARIANT: Just made, and owned by nobody else.
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }

    /// Waits until all the work queued before this call is done (`flush_workqueue`).
    ///
    /// Context: process, not from the queue's own work.
    pub(crate) fn flush(&self) {
        // SAFETY: The queue is valid by the type's invariants.
        unsafe { bindings::__flush_workqueue(self.0.as_ptr()) }
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: The queue is valid and not used after this, by the type's invariants.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) }
    }
}

/// A boxed work item that knows the queue that it runs on, and keeps it alive.
pub(crate) trait QueuedItem:
    WorkItem<Pointer = Pin<KBox<Self>>> + HasWork<Self> + Send + Sized
{
    /// The queue.
    fn queue(&self) -> &OwnedQueue;
}

/// Hands the item over to its own queue, which runs it once. Context: any.
///
/// The kernel crate's `Queue::enqueue` would need a reference to the queue for the whole call; one
/// that is borrowed from the item is gone as soon as the item has run.
pub(crate) fn enqueue<T: QueuedItem + 'static>(item: Pin<KBox<T>>) {
    let queue = item.queue().0.as_ptr();
    // SAFETY: Nothing is moved out of the box, only its ownership is handed on.
    let item = KBox::into_raw(unsafe { Pin::into_inner_unchecked(item) });
    // SAFETY: `item` points to a valid `T`, and so to its work.
    let work = unsafe { Work::raw_get(T::raw_get_work(item)) };
    // The box was owned by the caller, so the work is not queued, and this can't fail.
    //
    // SAFETY: The work was initialised to call `<Pin<KBox<T>> as WorkItemPointer>::run`, which
    // takes the box over. `queue` comes from a reference that safe code borrowed from the item; it
    // stays valid until the item runs, as nobody can reach the item before. From then on
    // `queue_work_on` touches the queue inside its RCU read section only, and it is freed by RCU.
    let queued = unsafe {
        bindings::queue_work_on(
            bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
            queue,
            work,
        )
    };
    if !queued {
        pr_warn_once!("a work item was queued twice\n");
    }
}

/// A shared work item that runs again and again, never twice at a time, on a queue that it keeps
/// alive. While it waits or runs, the queue has a reference to it.
pub(crate) trait RepeatedItem:
    WorkItem<Pointer = Arc<Self>> + HasDelayedWork<Self> + Send + Sync + Sized
{
    /// The queue.
    fn queue(&self) -> &OwnedQueue;
}

/// The `delayed_work` of an item.
///
/// # Safety
///
/// `item` must point to a valid `T`.
unsafe fn delayed_work<T: RepeatedItem>(item: *const T) -> *mut bindings::delayed_work {
    // SAFETY: By this function's rules.
    let work = unsafe { Work::raw_get(T::raw_get_work(item.cast_mut())) };
    // SAFETY: `HasDelayedWork` says that the work is that of a `delayed_work`.
    unsafe { kernel::container_of!(work, bindings::delayed_work, work) }
}

/// Has the item run at once, also where it waits already, for whatever time, or runs
/// (`mod_delayed_work`). Context: any.
///
/// Not to be called once [`cancel`] was: the item might never run, and be leaked.
pub(crate) fn run_now<T: RepeatedItem + 'static>(item: &Arc<T>) {
    hand_over(item, |queue, work| {
        // SAFETY: By the rules of `hand_over`.
        !unsafe { bindings::mod_delayed_work_on(CPU_UNBOUND, queue, work, 0) }
    });
}

/// Has the item run after `delay`, unless it waits already, for whatever time
/// (`queue_delayed_work`). Context: any.
pub(crate) fn run_later<T: RepeatedItem + 'static>(item: &Arc<T>, delay: Jiffies) {
    hand_over(item, |queue, work| {
        // SAFETY: By the rules of `hand_over`.
        unsafe { bindings::queue_delayed_work_on(CPU_UNBOUND, queue, work, delay) }
    });
}

const CPU_UNBOUND: c_int = bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int;

/// Makes a reference for the queue. `queue` gets a valid queue, and a valid work that was
/// initialised to call `<Arc<T> as WorkItemPointer>::run`, which takes the reference over; it
/// returns whether it has queued the work. Where the work waited already, the queue has a reference
/// since then.
fn hand_over<T: RepeatedItem + 'static>(
    item: &Arc<T>,
    queue: impl FnOnce(*mut bindings::workqueue_struct, *mut bindings::delayed_work) -> bool,
) {
    let item = Arc::into_raw(item.clone());
    // SAFETY: The item is valid, as the caller has a reference to it.
    let (workqueue, work) = unsafe { ((*item).queue().0.as_ptr(), delayed_work(item)) };
    if !queue(workqueue, work) {
        // SAFETY: Made above, and not taken over.
        drop(unsafe { Arc::from_raw(item) });
    }
}

/// Takes the item off its queue, and waits until it does not run any more
/// (`cancel_delayed_work_sync`). Context: process, not from the item itself.
pub(crate) fn cancel<T: RepeatedItem + 'static>(item: &Arc<T>) {
    let item: *const T = &**item;
    // SAFETY: The item is valid, as the caller has a reference to it.
    if unsafe { bindings::cancel_delayed_work_sync(delayed_work(item)) } {
        // SAFETY: It waited, so the queue had a reference, which came from `Arc::into_raw`.
        drop(unsafe { Arc::from_raw(item) });
    }
}
