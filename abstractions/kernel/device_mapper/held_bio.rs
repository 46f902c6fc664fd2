// SPDX-License-Identifier: GPL-2.0

//! A bio that a target has taken from the core, and the end of a bio.

use super::{
    per_bio::{self, BioShare, Head, PerBio},
    Device,
};
use crate::abstractions::{
    bindings,
    bio::{BufferedBio, Op, Status},
};
use core::{marker::PhantomData, mem::ManuallyDrop, ops::ControlFlow, ptr::NonNull};
use kernel::{pr_warn_once, prelude::*};

/// A user's bio that waits: it must be submitted or ended. Dropping it ends it with an error.
///
/// # Invariants
///
/// The bio is not in flight, and nobody else has it; `own` is kept beside it, is initialised, and
/// remembers where the bio's data is, and whether the bio has ended below.
pub(crate) struct HeldBio<D> {
    bio: NonNull<kernel::bindings::bio>,
    own: NonNull<PerBio<D>>,
}

// SAFETY: A bio that is not in flight belongs to no thread.
unsafe impl<D: Send> Send for HeldBio<D> {}
// SAFETY: A shared reference gives nothing but shared references to the data.
unsafe impl<D: Sync> Sync for HeldBio<D> {}

impl<D> HeldBio<D> {
    /// Takes a bio over.
    ///
    /// # Safety
    ///
    /// The invariants must be true, and the core leave the bio alone.
    pub(super) unsafe fn new(bio: NonNull<kernel::bindings::bio>, own: NonNull<PerBio<D>>) -> Self {
        // INVARIANT: By this function's rules.
        Self { bio, own }
    }

    fn head(&self) -> NonNull<Head> {
        // SAFETY: `own` is valid by the type's invariants.
        unsafe { NonNull::new_unchecked(&raw mut (*self.own.as_ptr()).head) }
    }

    /// The target's data.
    pub(crate) fn data_mut(&mut self) -> &mut D {
        // SAFETY: It is initialised, and nobody else has the bio, by the type's invariants.
        unsafe { &mut (*self.own.as_ptr()).data }
    }

    /// Takes a share of the bio: see [`MappedBio::share`](super::MappedBio::share).
    pub(crate) fn share(&mut self) -> BioShare {
        // SAFETY: The bio is ours, and not in flight, by the type's invariants.
        unsafe { BioShare::new(self.bio, self.head()) }
    }

    /// Copies the data of a write to `memory`: see
    /// [`MappedBio::move_data`](super::MappedBio::move_data).
    pub(crate) fn move_data(&mut self, memory: KBox<BufferedBio>) -> Result {
        let head = self.head();
        // SAFETY: `own` is valid by the type's invariants.
        let head = unsafe { head.as_ref() };
        // SAFETY: The bio is ours by the type's invariants.
        let op = Op::from_opf(unsafe { (*self.bio.as_ptr()).bi_opf });
        if op != Op::Write || head.has_ended() || head.is_shared() {
            return Err(EINVAL);
        }
        // SAFETY: The bio is ours, and not in flight, by the type's invariants.
        unsafe { head.move_data(self.bio, memory) }
    }

    /// Sends the bio to `sector` of `device` (`dm_submit_bio_remap`), as a whole, also where it has
    /// ended before. Who submitted it does not wait for this: `REQ_NOWAIT` and `REQ_POLLED` do not
    /// go along.
    ///
    /// Context: process, may wait for a request. The device is as for
    /// [`MappedBio::remap`](super::MappedBio::remap).
    pub(crate) fn submit(self, device: &Device, sector: u64) {
        let held = ManuallyDrop::new(self);
        let bio = held.bio.as_ptr();
        // SAFETY: `own` is valid by the type's invariants.
        if let Some(iter) = unsafe { held.head().as_ref() }.iter() {
            // SAFETY: The bio is ours by the type's invariants.
            unsafe { (*bio).bi_iter = iter };
        }
        // SAFETY: The bio is ours by the type's invariants, and the device is open.
        unsafe { bindings::bio_set_dev(bio, device.as_raw()) };
        // SAFETY: The bio is ours by the type's invariants.
        let fields = unsafe { &mut *bio };
        fields.bi_iter.bi_sector = sector;
        fields.bi_status = 0;
        fields.bi_opf &= !(bindings::REQ_NOWAIT | bindings::REQ_POLLED);
        fields.__bindgen_anon_1.bi_cookie = bindings::BLK_QC_T_NONE;
        // SAFETY: `own` is valid by the type's invariants.
        unsafe { held.head().as_ref() }.set_ended(false);
        // Where it was split below, the parts have counted it down.
        fields.__bi_remaining.counter = 1;
        // SAFETY: The bio is a clone of the core's, and is given away.
        unsafe { bindings::dm_submit_bio_remap(bio, core::ptr::null_mut()) }
    }

    /// Ends the bio. Context: any.
    pub(crate) fn end(self, status: Status) {
        let held = ManuallyDrop::new(self);
        // SAFETY: The bio is ours by the type's invariants.
        unsafe { (*held.bio.as_ptr()).bi_status = status.raw() };
        // SAFETY: `own` is valid by the type's invariants.
        if unsafe { held.head().as_ref() }.has_ended() {
            // SAFETY: As above, and it is given away.
            unsafe { per_bio::end(held.bio) }
        } else {
            // SAFETY: As above.
            unsafe { kernel::bindings::bio_endio(held.bio.as_ptr()) }
        }
    }
}

impl<D> Drop for HeldBio<D> {
    fn drop(&mut self) {
        pr_warn_once!("a held bio was forgotten; it ends with an error\n");
        // SAFETY: The bio is given away, as nobody uses `self` after this.
        unsafe { Self::new(self.bio, self.own) }.end(Status::IO_ERROR);
    }
}

/// Held bios, first come, first served. Allocates nothing: the bios are linked to each other.
///
/// # Invariants
///
/// Each bio from `first` on, linked by `bi_next`, is one that a [`HeldBio`] stands for; `last` is
/// the last one.
pub(crate) struct HeldList<D> {
    first: *mut kernel::bindings::bio,
    last: *mut kernel::bindings::bio,
    _held: PhantomData<HeldBio<D>>,
}

// SAFETY: It stands for the bios in it.
unsafe impl<D: Send> Send for HeldList<D> {}
// SAFETY: As above.
unsafe impl<D: Sync> Sync for HeldList<D> {}

impl<D> HeldList<D> {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        // INVARIANT: No bios.
        Self {
            first: core::ptr::null_mut(),
            last: core::ptr::null_mut(),
            _held: PhantomData,
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Adds a bio at the end.
    pub(crate) fn push(&mut self, held: HeldBio<D>) {
        let bio = ManuallyDrop::new(held).bio.as_ptr();
        // SAFETY: The bio is ours.
        unsafe { (*bio).bi_next = core::ptr::null_mut() };
        if self.first.is_null() {
            self.first = bio;
        } else {
            // SAFETY: The last bio is ours by the type's invariants.
            unsafe { (*self.last).bi_next = bio };
        }
        // INVARIANT: It is linked, and the last one.
        self.last = bio;
    }

    /// Takes the first bio out that `wanted` breaks with true at, or none where it breaks with
    /// false; it gets the data of one after the other, and the bios before it.
    pub(crate) fn take_first(
        &mut self,
        mut wanted: impl FnMut(&mut D, Before<'_, D>) -> ControlFlow<bool>,
    ) -> Option<HeldBio<D>> {
        let mut before: *mut kernel::bindings::bio = core::ptr::null_mut();
        let mut bio = self.first;
        loop {
            let ours = NonNull::new(bio)?;
            // SAFETY: The bio is ours by the type's invariants.
            let (own, next) = unsafe { (per_bio::per_bio::<D>(bio), (*bio).bi_next) };
            let others = Before {
                first: self.first,
                end: bio,
                _list: PhantomData,
            };
            // SAFETY: It is initialised, nobody else has the bio, and `others` ends before it.
            let flow = wanted(unsafe { &mut (*own.as_ptr()).data }, others);
            if flow == ControlFlow::Break(false) {
                return None;
            }
            if flow == ControlFlow::Break(true) {
                if before.is_null() {
                    self.first = next;
                } else {
                    // SAFETY: As above.
                    unsafe { (*before).bi_next = next };
                }
                if next.is_null() {
                    self.last = before;
                }
                // SAFETY: As above.
                unsafe { (*bio).bi_next = core::ptr::null_mut() };
                // SAFETY: It was held when it was pushed, and is not in the list any more.
                return Some(unsafe { HeldBio::new(ours, own) });
            }
            (before, bio) = (bio, next);
        }
    }

    /// Takes the first bio out.
    pub(crate) fn pop(&mut self) -> Option<HeldBio<D>> {
        self.take_first(|_, _| ControlFlow::Break(true))
    }

    /// Whether `found` is true of the data of one of them.
    pub(crate) fn any(&self, found: impl FnMut(&D) -> bool) -> bool {
        let all = Before {
            first: self.first,
            end: core::ptr::null_mut(),
            _list: PhantomData,
        };
        all.any(found)
    }
}

/// The bios of a [`HeldList`] before one of them.
///
/// # Invariants
///
/// Those from `first` up to `end` are in the list, and nobody changes them meanwhile.
pub(crate) struct Before<'a, D> {
    first: *mut kernel::bindings::bio,
    end: *mut kernel::bindings::bio,
    _list: PhantomData<&'a HeldBio<D>>,
}

impl<D> Before<'_, D> {
    /// Whether `found` is true of the data of one of them.
    pub(crate) fn any(&self, mut found: impl FnMut(&D) -> bool) -> bool {
        let mut bio = self.first;
        while !core::ptr::eq(bio, self.end) {
            // SAFETY: The bio is valid by the type's invariants.
            let (own, next) = unsafe { (per_bio::per_bio::<D>(bio), (*bio).bi_next) };
            // SAFETY: It is initialised, and nobody changes it meanwhile.
            if found(unsafe { &(*own.as_ptr()).data }) {
                return true;
            }
            bio = next;
        }
        false
    }
}

impl<D> Drop for HeldList<D> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// A bio that has ended, inside `end_io`.
///
/// # Invariants
///
/// The bio is the one that the running `end_io` was called with; `own` is kept beside it, and
/// initialised. Nobody has a share of it.
pub(crate) struct EndingBio<'a, D> {
    bio: NonNull<kernel::bindings::bio>,
    own: NonNull<PerBio<D>>,
    status: &'a mut kernel::bindings::blk_status_t,
    _end_io: PhantomData<&'a mut kernel::bindings::bio>,
}

/// What becomes of an [`EndingBio`] (`DM_ENDIO_*`).
#[must_use]
pub(crate) struct EndResult<'a> {
    code: u32,
    _end_io: PhantomData<&'a mut kernel::bindings::bio>,
}

impl EndResult<'_> {
    fn new(code: u32) -> Self {
        Self {
            code,
            _end_io: PhantomData,
        }
    }

    pub(super) fn code(&self) -> u32 {
        self.code
    }
}

impl<'a, D> EndingBio<'a, D> {
    /// Takes the bio that `end_io` was called with.
    ///
    /// # Safety
    ///
    /// The invariants must be true, and `end_io` run during all of `'a`.
    pub(super) unsafe fn new(
        bio: NonNull<kernel::bindings::bio>,
        own: NonNull<PerBio<D>>,
        status: &'a mut kernel::bindings::blk_status_t,
    ) -> Self {
        // INVARIANT: By this function's rules.
        Self {
            bio,
            own,
            status,
            _end_io: PhantomData,
        }
    }

    /// How it ended.
    #[inline]
    pub(crate) fn status(&self) -> Status {
        Status::new(*self.status)
    }

    /// The target's data.
    #[inline]
    pub(crate) fn data_mut(&mut self) -> &mut D {
        // SAFETY: It is initialised, and nobody else has the bio, by the type's invariants.
        unsafe { &mut (*self.own.as_ptr()).data }
    }

    /// Takes the memory that the data was [moved](super::MappedBio::move_data) to.
    #[inline]
    pub(crate) fn take_moved(&mut self) -> Option<KBox<BufferedBio>> {
        // SAFETY: `own` is valid by the type's invariants, the bio has ended, and nobody has a
        // share of it.
        unsafe { (*self.own.as_ptr()).head.take_moved(self.bio) }
    }

    /// Lets the core have it (`DM_ENDIO_DONE`).
    #[inline]
    pub(crate) fn done(mut self) -> EndResult<'a> {
        drop(self.take_moved());
        EndResult::new(bindings::DM_ENDIO_DONE)
    }

    /// The same, with another status.
    pub(crate) fn done_with(self, status: Status) -> EndResult<'a> {
        *self.status = status.raw();
        self.done()
    }

    /// Takes the bio from the core (`DM_ENDIO_INCOMPLETE`), which hears of it when it ends again.
    /// Refused where the bio does not [remember](super::MappedBio::remember) where its data is.
    pub(crate) fn take_back(self) -> Result<(HeldBio<D>, EndResult<'a>), Self> {
        // SAFETY: `own` is valid by the type's invariants.
        let head = unsafe { &(*self.own.as_ptr()).head };
        if head.iter().is_none() {
            return Err(self);
        }
        head.set_ended(true);
        // SAFETY: The bio has ended, and the core leaves it alone from here on.
        let held = unsafe { HeldBio::new(self.bio, self.own) };
        Ok((held, EndResult::new(bindings::DM_ENDIO_INCOMPLETE)))
    }
}
