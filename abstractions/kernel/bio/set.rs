// SPDX-License-Identifier: GPL-2.0

//! A pool of bios.

use crate::abstractions::bindings;
use core::ptr::NonNull;
use kernel::{error::to_result, prelude::*, types::Opaque};

/// A pool that always has some bios in reserve (`struct bio_set`).
///
/// # Invariants
///
/// The set is initialised, with `BIOSET_NEED_BVECS`.
#[pin_data(PinnedDrop)]
pub(crate) struct BioSet {
    #[pin]
    set: Opaque<kernel::bindings::bio_set>,
}

// SAFETY: A bio_set does its own locking.
unsafe impl Send for BioSet {}
// SAFETY: As above.
unsafe impl Sync for BioSet {}

impl BioSet {
    /// The most pieces of memory that one bio can carry.
    pub(crate) const MAX_VECS: usize = bindings::BIO_MAX_VECS as usize;

    /// Creates a set with `reserve` bios in reserve (`bioset_init`).
    ///
    /// Context: process, may sleep. Errors: `ENOMEM`.
    pub(crate) fn new(reserve: u32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // INVARIANT: `bioset_init` succeeded with that flag, or there is no set.
            set <- Opaque::try_ffi_init(|slot: *mut kernel::bindings::bio_set| {
                // SAFETY: `bioset_init` and `bioset_exit` rely on memory that is zero.
                unsafe { slot.write_bytes(0, 1) };
                // SAFETY: `slot` is valid for writes and does not move after this.
                to_result(unsafe {
                    kernel::bindings::bioset_init(
                        slot,
                        reserve,
                        0,
                        kernel::bindings::BIOSET_NEED_BVECS as c_int,
                    )
                })
            }),
        })
    }

    /// Allocates a bio with room for `nr_vecs` pieces of memory (`bio_alloc_bioset`); the caller
    /// owns it, and puts it before the set goes.
    ///
    /// Context: process; waits for another bio of the set to be put once the reserve is used up.
    pub(super) fn alloc(&self, nr_vecs: u16) -> Result<NonNull<kernel::bindings::bio>> {
        // SAFETY: The set is initialised by the type's invariants. Without a device the bio takes
        // no reference to one.
        let bio = unsafe {
            kernel::bindings::bio_alloc_bioset(
                core::ptr::null_mut(),
                nr_vecs,
                0,
                kernel::bindings::GFP_KERNEL,
                self.set.get(),
            )
        };
        NonNull::new(bio).ok_or(ENOMEM)
    }
}

#[pinned_drop]
impl PinnedDrop for BioSet {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The set is initialised by the type's invariants, and nobody has a bio of it, as
        // each `BufferedBio` keeps its set alive.
        unsafe { kernel::bindings::bioset_exit(self.set.get()) }
    }
}
