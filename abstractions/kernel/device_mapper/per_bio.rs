// SPDX-License-Identifier: GPL-2.0

//! What is kept beside each bio of the core's while it is with a target (`per_io_data`).

use crate::abstractions::{bindings, bio::BufferedBio};
use core::{cell::UnsafeCell, ptr::NonNull};
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Full, Relaxed},
};

/// Ours, and the target's.
#[repr(C)]
pub(super) struct PerBio<D> {
    pub(super) head: Head,
    pub(super) data: D,
}

/// Ours.
pub(super) struct Head {
    /// How many ends the bio waits for: its own, and those of its [`BioShare`]s. 0 where there has
    /// never been one.
    ends: Atomic<u32>,
    /// Where the data was, once it was remembered: the bio's own iterator is used up when it ends.
    iter: UnsafeCell<kernel::bindings::bvec_iter>,
    remembered: Atomic<bool>,
    /// Whether the bio has ended below, and the core does not know of it.
    ended: Atomic<bool>,
    /// The bio, and the next one, while a share of it is in a [`ShareList`].
    link: UnsafeCell<(*mut kernel::bindings::bio, *mut Head)>,
    /// What the bio's data was moved to, and the vectors of the memory where it was.
    moved: UnsafeCell<Option<(KBox<BufferedBio>, *mut kernel::bindings::bio_vec)>>,
}

impl Head {
    pub(super) fn new() -> Self {
        Self {
            ends: Atomic::new(0),
            iter: UnsafeCell::new(pin_init::zeroed()),
            remembered: Atomic::new(false),
            ended: Atomic::new(false),
            link: UnsafeCell::new((core::ptr::null_mut(), core::ptr::null_mut())),
            moved: UnsafeCell::new(None),
        }
    }

    /// Keeps the bio's iterator, if it is not kept already.
    ///
    /// # Safety
    ///
    /// The bio must be the one of this head, not in flight, and nobody else call this at the time.
    pub(super) unsafe fn remember(&self, bio: NonNull<kernel::bindings::bio>) {
        if !self.remembered.load(Relaxed) {
            // SAFETY: By this function's rules; nobody reads it before it is remembered.
            unsafe { *self.iter.get() = (*bio.as_ptr()).bi_iter };
            self.remembered.store(true, Relaxed);
        }
    }

    /// Where the data was, if it was remembered.
    pub(super) fn iter(&self) -> Option<kernel::bindings::bvec_iter> {
        // SAFETY: It does not change any more once it is remembered, which who has the bio or a
        // share of it sees: that came after it.
        (self.remembered.load(Relaxed)).then(|| unsafe { *self.iter.get() })
    }

    /// Copies the bio's data to `memory`, where the bio has it from here on. Errors: `EINVAL` where
    /// there is no room for it, or it was moved before.
    ///
    /// # Safety
    ///
    /// The bio must be the one of this head, a write with data, and not in flight; nobody has a
    /// share of it.
    pub(super) unsafe fn move_data(
        &self,
        bio: NonNull<kernel::bindings::bio>,
        mut memory: KBox<BufferedBio>,
    ) -> Result {
        // SAFETY: By this function's rules nobody else looks at it.
        let moved = unsafe { &mut *self.moved.get() };
        if moved.is_some() {
            return Err(EINVAL);
        }
        // SAFETY: By this function's rules.
        let vecs = unsafe { memory.copy_data(bio) }?;
        // SAFETY: By this function's rules.
        let fields = unsafe { &mut *bio.as_ptr() };
        let theirs = core::mem::replace(&mut fields.bi_io_vec, vecs);
        fields.bi_iter.bi_idx = 0;
        fields.bi_iter.bi_bvec_done = 0;
        if self.remembered.load(Relaxed) {
            // SAFETY: Nobody reads it meanwhile: the bio is the caller's, and not shared.
            unsafe { *self.iter.get() = fields.bi_iter };
        }
        *moved = Some((memory, theirs));
        Ok(())
    }

    /// Takes the memory that the bio's data was moved to. The bio has what it had before.
    ///
    /// # Safety
    ///
    /// The bio must be the one of this head, and have ended; nobody has a share of it.
    pub(super) unsafe fn take_moved(
        &self,
        bio: NonNull<kernel::bindings::bio>,
    ) -> Option<KBox<BufferedBio>> {
        // SAFETY: By this function's rules nobody else looks at it.
        let (memory, theirs) = unsafe { (*self.moved.get()).take() }?;
        // SAFETY: By this function's rules.
        unsafe { (*bio.as_ptr()).bi_io_vec = theirs };
        Some(memory)
    }

    /// Whether the bio has ended below, and the core does not know of it.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// Sets that, by who has the bio.
    pub(super) fn set_ended(&self, ended: bool) {
        self.ended.store(ended, Relaxed);
    }

    /// Whether there is a share, or was one and the bio has not ended since.
    pub(super) fn is_shared(&self) -> bool {
        self.ends.load(Relaxed) > 0
    }

    /// One more end is waited for.
    ///
    /// # Safety
    ///
    /// The bio must not be in flight, and nobody else call this at the time.
    unsafe fn expect_end(&self) {
        let ends = self.ends.load(Relaxed).max(1);
        self.ends.store(ends + 1, Relaxed);
    }

    /// One end has come; returns whether it was the last one.
    #[inline]
    pub(super) fn is_last_end(&self) -> bool {
        match self.ends.load(Relaxed) {
            // Never shared, or the last share has called.
            0 => true,
            // Full: who comes last sees what the others have done before they came.
            _ => self.ends.fetch_sub(1, Full) == 1,
        }
    }
}

/// Keeps a bio, and so its memory, from ending: it ends when it has ended below and its last share
/// is gone, with the status that it had below.
///
/// # Invariants
///
/// The bio and its head are valid, and one of the head's ends is this share's. The head remembers
/// where the data is.
pub(crate) struct BioShare {
    bio: NonNull<kernel::bindings::bio>,
    head: NonNull<Head>,
}

// SAFETY: What can be done with it may be done from any thread.
unsafe impl Send for BioShare {}
// SAFETY: A shared reference only reads what does not change.
unsafe impl Sync for BioShare {}

impl BioShare {
    /// Takes a share.
    ///
    /// # Safety
    ///
    /// The head must be that of the bio, which must be the caller's and not in flight.
    pub(super) unsafe fn new(bio: NonNull<kernel::bindings::bio>, head: NonNull<Head>) -> Self {
        // SAFETY: By this function's rules.
        unsafe { head.as_ref().remember(bio) };
        // SAFETY: By this function's rules.
        unsafe { head.as_ref().expect_end() };
        // INVARIANT: Just seen to.
        Self { bio, head }
    }

    /// The bio, of which only what never changes may be read: others have it in flight.
    pub(crate) fn bio(&self) -> NonNull<kernel::bindings::bio> {
        self.bio
    }

    /// Where the data is.
    pub(crate) fn iter(&self) -> kernel::bindings::bvec_iter {
        // SAFETY: The head is valid by the type's invariants.
        let iter = unsafe { self.head.as_ref() }.iter();
        // It is remembered by the type's invariants.
        iter.unwrap_or(pin_init::zeroed())
    }
}

impl Drop for BioShare {
    fn drop(&mut self) {
        // SAFETY: The head is valid by the type's invariants, until its last end has come.
        if unsafe { self.head.as_ref() }.is_last_end() {
            // SAFETY: The bio has ended below, as its own end has come, and all that `bio_endio`
            // does before it calls this is done.
            unsafe { end(self.bio) };
        }
    }
}

/// Shares of bios, of each bio one at the most, first come, first served. Allocates nothing: the
/// bios are linked to each other.
///
/// # Invariants
///
/// Each head from `first` on, linked by `link`, stands for a [`BioShare`] that was pushed; `last`
/// is the last one.
pub(crate) struct ShareList {
    first: *mut Head,
    last: *mut Head,
}

// SAFETY: It stands for the shares in it.
unsafe impl Send for ShareList {}

impl ShareList {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        // INVARIANT: No shares.
        Self {
            first: core::ptr::null_mut(),
            last: core::ptr::null_mut(),
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Adds a share at the end; there must be no other share of its bio in any list.
    pub(crate) fn push(&mut self, share: BioShare) {
        let share = core::mem::ManuallyDrop::new(share);
        let head = share.head.as_ptr();
        // SAFETY: The head is valid by the share's invariants; only the list that has the share
        // uses the link.
        unsafe { *(*head).link.get() = (share.bio.as_ptr(), core::ptr::null_mut()) };
        if self.first.is_null() {
            self.first = head;
        } else {
            // SAFETY: The last head is valid by the type's invariants.
            unsafe { (*(*self.last).link.get()).1 = head };
        }
        // INVARIANT: It is linked, and the last one.
        self.last = head;
    }

    /// Takes the first share out.
    pub(crate) fn pop(&mut self) -> Option<BioShare> {
        let head = NonNull::new(self.first)?;
        // SAFETY: The head is valid by the type's invariants.
        let (bio, next) = unsafe { *head.as_ref().link.get() };
        self.first = next;
        // INVARIANT: That of the share that was pushed.
        NonNull::new(bio).map(|bio| BioShare { bio, head })
    }

    /// Takes all of another list, and adds them at the end.
    pub(crate) fn append(&mut self, other: &mut Self) {
        while let Some(share) = other.pop() {
            self.push(share);
        }
    }
}

impl Drop for ShareList {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// Calls the core's handler (`clone_endio`) of a bio that has ended below: what `bio_endio` does
/// besides was done then.
///
/// # Safety
///
/// The bio must be valid and the caller's, which gives it away.
pub(super) unsafe fn end(bio: NonNull<kernel::bindings::bio>) {
    // SAFETY: By this function's rules.
    if let Some(end_io) = unsafe { (*bio.as_ptr()).bi_end_io } {
        // SAFETY: By this function's rules.
        unsafe { end_io(bio.as_ptr()) };
    }
}

/// Returns what is kept beside a bio (`dm_per_bio_data`).
///
/// # Safety
///
/// `bio` must be one that device-mapper calls a target with whose `per_io_data_size` is that of
/// `PerBio<D>`, as [`size`] has it.
#[inline]
pub(super) unsafe fn per_bio<D>(bio: *mut kernel::bindings::bio) -> NonNull<PerBio<D>> {
    // SAFETY: By this function's rules; the core has made room for that size.
    let data = unsafe { bindings::dm_per_bio_data(bio, size::<D>()) };
    // SAFETY: It lies before the bio, in the same allocation.
    unsafe { NonNull::new_unchecked(data.cast()) }
}

/// The `per_io_data_size`, so that what lies there is aligned as what follows it.
pub(super) const fn size<D>() -> usize {
    assert!(align_of::<PerBio<D>>() <= align_of::<u64>());
    size_of::<PerBio<D>>().next_multiple_of(align_of::<u64>())
}
