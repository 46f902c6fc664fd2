// SPDX-License-Identifier: GPL-2.0

//! Sending bios of our own.

use super::Status;
use core::ptr::NonNull;
use kernel::{pr_warn_once, prelude::*};

/// A bio of our own.
///
/// # Safety
///
/// What `take_prepared` returns is a bio that may be submitted: all that it needs is there, and
/// stays until it has ended, if nobody touches the object meanwhile.
pub(crate) unsafe trait OwnBio {
    /// The bio, if it was prepared since this was called last.
    fn take_prepared(&mut self) -> Option<NonNull<kernel::bindings::bio>>;
}

/// What owns a bio, goes away with it, and is given back when it ended.
pub(crate) trait BioOwner: Send + Sized + 'static {
    /// What the bio is.
    type Bio: OwnBio;

    /// The bio to submit.
    fn bio(self: Pin<&mut Self>) -> &mut Self::Bio;

    /// The bio ended. Context: any, hard interrupts among them.
    fn end_io(owner: Pin<KBox<Self>>, status: Status);
}

/// Submits the owner's bio (`submit_bio`); [`BioOwner::end_io`] gets the owner back, perhaps before
/// this returns. A bio that was not prepared since it was submitted last ends with an error.
///
/// Context: process; may wait for a free request of the device, but not inside `map`.
pub(crate) fn submit<T: BioOwner>(mut owner: Pin<KBox<T>>) {
    let Some(bio) = T::bio(owner.as_mut()).take_prepared() else {
        pr_warn_once!("a bio was submitted that nobody prepared\n");
        return T::end_io(owner, Status::IO_ERROR);
    };
    let bio = bio.as_ptr();
    // SAFETY: Nothing is moved out of the box: it is pinned again in `end_io`.
    let owner = KBox::into_raw(unsafe { Pin::into_inner_unchecked(owner) });
    // SAFETY: The bio was not in flight, and the owner that has it is out of everybody's reach.
    let fields = unsafe { &mut *bio };
    fields.bi_private = owner.cast();
    fields.bi_end_io = Some(end_io::<T>);
    // SAFETY: The bio was prepared, and its device is kept open by the owner; it is given away.
    unsafe { kernel::bindings::submit_bio(bio) }
}

/// The `bi_end_io` of [`submit`].
///
/// # Safety
///
/// Called by the block layer, once for each `submit::<T>` of this bio.
unsafe extern "C" fn end_io<T: BioOwner>(bio: *mut kernel::bindings::bio) {
    // SAFETY: The block layer has ended the bio, and gives it back.
    let bio = unsafe { &*bio };
    let status = Status::new(bio.bi_status);
    // SAFETY: `submit` put the box there, and nobody else takes it out.
    let owner = unsafe { KBox::from_raw(bio.bi_private.cast::<T>()) };
    // SAFETY: The box was pinned in `submit`, and has not moved.
    T::end_io(unsafe { Pin::new_unchecked(owner) }, status);
}
