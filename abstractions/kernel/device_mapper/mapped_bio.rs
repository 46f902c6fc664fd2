// SPDX-License-Identifier: GPL-2.0

//! A bio on its way through a target.

use super::Device;
use crate::abstractions::{bindings, bio::Op};
use core::{marker::PhantomData, ptr::NonNull};

/// A user's bio inside `map`: device-mapper's clone of it, to be remapped or ended.
///
/// Each way out consumes it, and only they make the [`MapResult`] that `map` must return: exactly
/// one of them happens to each bio.
///
/// # Invariants
///
/// The bio is the one that the running `map` was called with, and nothing was done with it yet.
pub(crate) struct MappedBio<'a> {
    bio: NonNull<kernel::bindings::bio>,
    _map: PhantomData<&'a mut kernel::bindings::bio>,
}

/// What became of a [`MappedBio`] (`DM_MAPIO_*`).
#[must_use]
pub(crate) struct MapResult<'a> {
    code: u32,
    _map: PhantomData<&'a mut kernel::bindings::bio>,
}

impl MapResult<'_> {
    pub(super) fn code(&self) -> u32 {
        self.code
    }
}

impl<'a> MappedBio<'a> {
    /// Takes the bio that `map` was called with.
    ///
    /// # Safety
    ///
    /// `bio` must be the argument of a `map` that runs during all of `'a`, and be taken once.
    pub(super) unsafe fn new(bio: NonNull<kernel::bindings::bio>) -> Self {
        // INVARIANT: By this function's rules.
        Self {
            bio,
            _map: PhantomData,
        }
    }

    /// What is asked for. An empty write is a flush, as the core sends it.
    pub(crate) fn op(&self) -> Op {
        // SAFETY: The bio is ours to read by the type's invariants.
        let opf = unsafe { (*self.bio.as_ptr()).bi_opf };
        match Op::from_opf(opf) {
            Op::Write if self.sectors() == 0 => Op::Flush,
            op => op,
        }
    }

    /// The first sector, on the mapped device (not from the target's start).
    pub(crate) fn sector(&self) -> u64 {
        // SAFETY: The bio is ours to read by the type's invariants.
        unsafe { (*self.bio.as_ptr()).bi_iter.bi_sector }
    }

    /// The length in sectors, 0 for a flush.
    pub(crate) fn sectors(&self) -> u32 {
        // SAFETY: The bio is ours to read by the type's invariants.
        unsafe { (*self.bio.as_ptr()).bi_iter.bi_size >> kernel::bindings::SECTOR_SHIFT }
    }

    /// Sends the bio to `sector` of `device` (`bio_set_dev`, `DM_MAPIO_REMAPPED`); all else that it
    /// carries (flags, integrity, encryption, hints) stays as it is.
    ///
    /// `device` is one of this target's, which stay open until device-mapper has waited for all its
    /// bios and calls `dtr`; nothing here checks that.
    #[inline]
    pub(crate) fn remap(self, device: &Device, sector: u64) -> MapResult<'a> {
        let bio = self.bio.as_ptr();
        // SAFETY: The bio is ours by the type's invariants, and the device is open, as above.
        unsafe { bindings::bio_set_dev(bio, device.as_raw()) };
        // SAFETY: The bio is ours by the type's invariants.
        unsafe { (*bio).bi_iter.bi_sector = sector };
        MapResult {
            code: bindings::DM_MAPIO_REMAPPED,
            _map: PhantomData,
        }
    }

    /// Ends the bio with an I/O error (`DM_MAPIO_KILL`).
    pub(crate) fn kill(self) -> MapResult<'a> {
        MapResult {
            code: bindings::DM_MAPIO_KILL,
            _map: PhantomData,
        }
    }
}
