// SPDX-License-Identifier: GPL-2.0

//! A bio on its way through a target.

use super::{
    held_bio::HeldBio,
    per_bio::{BioShare, Head, PerBio},
    Device,
};
use crate::abstractions::{
    bindings,
    bio::{BufferedBio, MemoryLayout, Op, Status},
};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::prelude::*;

/// A user's bio inside `map`: device-mapper's clone of it, to be remapped, held or ended. The
/// target's own data `D` goes along with it.
///
/// Each way out consumes it, and only they make the [`MapResult`] that `map` must return: exactly
/// one of them happens to each bio.
///
/// # Invariants
///
/// The bio is the one that the running `map` was called with, and nothing was done with it yet;
/// `own` is kept beside it, and initialised.
pub(crate) struct MappedBio<'a, D> {
    bio: NonNull<kernel::bindings::bio>,
    own: NonNull<PerBio<D>>,
    _map: PhantomData<&'a mut kernel::bindings::bio>,
}

/// What became of a [`MappedBio`] (`DM_MAPIO_*`).
#[must_use]
pub(crate) struct MapResult<'a> {
    code: u32,
    _map: PhantomData<&'a mut kernel::bindings::bio>,
}

impl MapResult<'_> {
    fn new(code: u32) -> Self {
        Self {
            code,
            _map: PhantomData,
        }
    }

    pub(super) fn code(&self) -> u32 {
        self.code
    }
}

impl<'a, D> MappedBio<'a, D> {
    /// Takes the bio that `map` was called with.
    ///
    /// # Safety
    ///
    /// `bio` must be the argument of a `map` that runs during all of `'a`, and be taken once; `own`
    /// is kept beside it, and initialised.
    pub(super) unsafe fn new(bio: NonNull<kernel::bindings::bio>, own: NonNull<PerBio<D>>) -> Self {
        // INVARIANT: By this function's rules.
        Self {
            bio,
            own,
            _map: PhantomData,
        }
    }

    fn opf(&self) -> u32 {
        // SAFETY: The bio is ours to read by the type's invariants.
        unsafe { (*self.bio.as_ptr()).bi_opf }
    }

    /// What is asked for. An empty write is a flush, as the core sends it.
    pub(crate) fn op(&self) -> Op {
        match Op::from_opf(self.opf()) {
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

    /// Whether the submitter must not wait (`REQ_NOWAIT`).
    pub(crate) fn is_nowait(&self) -> bool {
        self.opf() & bindings::REQ_NOWAIT != 0
    }

    /// Whether the bio may fail for no reason (`REQ_RAHEAD`), has data of its own to check what was
    /// read (`REQ_INTEGRITY`), or is looked for at its device (`REQ_POLLED`): no other device can
    /// answer it.
    pub(crate) fn is_particular(&self) -> bool {
        let particular = bindings::REQ_RAHEAD | bindings::REQ_INTEGRITY | bindings::REQ_POLLED;
        self.opf() & particular != 0
    }

    /// Whether [`accept`](Self::accept) may shorten it: writes with data, but for atomic ones, and
    /// such with integrity data, which the core has cut to the length already.
    pub(crate) fn may_be_split(&self) -> bool {
        self.op() == Op::Write && self.opf() & (bindings::REQ_ATOMIC | bindings::REQ_INTEGRITY) == 0
    }

    /// Takes the first `sectors` sectors only, before it is shared, where
    /// [`may_be_split`](Self::may_be_split) says that it may: the core sends the rest as another
    /// bio (`dm_accept_partial_bio`).
    pub(crate) fn accept(&mut self, sectors: u32) {
        // SAFETY: `own` is valid by the type's invariants.
        let is_shared = unsafe { self.head().as_ref() }.iter().is_some();
        if self.may_be_split() && !is_shared && (1..self.sectors()).contains(&sectors) {
            // SAFETY: The bio is in `map`, has that many sectors, and is not one of those that the
            // core sends by number, as these have no data.
            unsafe { bindings::dm_accept_partial_bio(self.bio.as_ptr(), sectors) };
        }
    }

    /// The target's data.
    pub(crate) fn data_mut(&mut self) -> &mut D {
        // SAFETY: It is initialised, and nobody else has the bio, by the type's invariants.
        unsafe { &mut (*self.own.as_ptr()).data }
    }

    fn head(&self) -> NonNull<Head> {
        // SAFETY: `own` is valid by the type's invariants.
        unsafe { NonNull::new_unchecked(&raw mut (*self.own.as_ptr()).head) }
    }

    /// Has the bio remember where its data is, so that it can be sent again when it has ended.
    pub(crate) fn remember(&mut self) {
        // SAFETY: The bio is ours, and not in flight, by the type's invariants.
        unsafe { self.head().as_ref().remember(self.bio) }
    }

    /// Takes a share of the bio. The core hears of the bio's end only when that is gone, too.
    pub(crate) fn share(&mut self) -> BioShare {
        // SAFETY: The bio is ours, and not in flight, by the type's invariants.
        unsafe { BioShare::new(self.bio, self.head()) }
    }

    /// Copies the data of a write to `memory`, and has the bio write it from there, so that it is
    /// the same for all that have a [share](Self::share) of it, which is taken later. Errors:
    /// `EINVAL` where there is no room for it, and for what is no write.
    pub(crate) fn move_data(&mut self, memory: KBox<BufferedBio>) -> Result {
        let head = self.head();
        // SAFETY: `own` is valid by the type's invariants.
        let head = unsafe { head.as_ref() };
        if self.op() != Op::Write || head.is_shared() {
            return Err(EINVAL);
        }
        // SAFETY: The bio is ours, and not in flight, by the type's invariants.
        unsafe { head.move_data(self.bio, memory) }
    }

    /// Whether the bio's data lies in memory as a device wants it.
    pub(crate) fn fits(&self, layout: MemoryLayout) -> bool {
        // SAFETY: The bio is ours, and not in flight, by the type's invariants.
        unsafe { layout.fits(self.bio) }
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
        MapResult::new(bindings::DM_MAPIO_REMAPPED)
    }

    /// Keeps the bio for later (`DM_MAPIO_SUBMITTED`).
    pub(crate) fn hold(mut self) -> (HeldBio<D>, MapResult<'a>) {
        self.remember();
        // SAFETY: The bio is ours by the type's invariants, and the core leaves it alone from here
        // on: it has nothing to account for (`accounts_remapped_io`).
        let held = unsafe { HeldBio::new(self.bio, self.own) };
        (held, MapResult::new(bindings::DM_MAPIO_SUBMITTED))
    }

    /// Ends the bio, `end_io` gets it.
    pub(crate) fn end(self, status: Status) -> MapResult<'a> {
        let (held, result) = self.hold();
        held.end(status);
        result
    }
}
