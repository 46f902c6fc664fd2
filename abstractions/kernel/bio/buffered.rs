// SPDX-License-Identifier: GPL-2.0

//! A bio of our own, with the memory that it reads into and writes from.

use super::{BioSet, Manner, Memory, Op, OwnBio, SECTOR_SIZE};
use crate::abstractions::{
    bindings,
    device_mapper::{BioShare, Device},
};
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// A bio that owns its memory, allocated once and used again and again.
///
/// Whoever has the `BufferedBio` has the memory too: while the bio is in flight nobody has it.
///
/// # Invariants
///
/// `bio` comes from `_set`, has room for all of `memory`, and is not in flight. Where `prepared` is
/// set, it has its operation, its memory, and `device`.
pub(crate) struct BufferedBio {
    bio: NonNull<kernel::bindings::bio>,
    memory: Memory,
    /// Where the bio goes, or went: kept open while it is in flight.
    device: Option<Device>,
    /// Whether the bio may be submitted, once.
    prepared: bool,
    /// Must outlive `bio`.
    _set: Arc<BioSet>,
}

// SAFETY: A bio that is not in flight belongs to no thread.
unsafe impl Send for BufferedBio {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for BufferedBio {}

impl BufferedBio {
    /// Allocates a bio with `sectors` sectors of memory, in as large pieces as are to be had.
    ///
    /// Context: process, may sleep. Errors: `ENOMEM`, also where the pieces that are to be had are
    /// too small for one bio; the OOM killer is never called.
    pub(crate) fn new(set: Arc<BioSet>, sectors: u32) -> Result<Self> {
        let memory = Memory::new(sectors)?;
        let nr_vecs = u16::try_from(memory.nr_vecs()).map_err(|_| EINVAL)?;
        // INVARIANT: As many vectors as the memory needs; nobody has submitted the bio.
        Ok(Self {
            bio: set.alloc(nr_vecs)?,
            memory,
            device: None,
            prepared: false,
            _set: set,
        })
    }

    /// Makes the bio a flush of the write cache of `device` (`REQ_PREFLUSH`).
    pub(crate) fn prepare_flush(&mut self, device: &Device) {
        let opf = kernel::bindings::req_op_REQ_OP_WRITE | bindings::REQ_PREFLUSH;
        self.reset(Some(device), 0, opf);
        // INVARIANT: A flush needs no memory.
        self.prepared = true;
    }

    /// Makes the bio a read from `sector` of `device` on, into a part of its memory: `sectors`
    /// sectors, after the first `skipped` ones. Errors: `EINVAL` for none, or where there are not
    /// so many.
    pub(crate) fn prepare_read(
        &mut self,
        device: &Device,
        sector: u64,
        part: (u64, u64),
    ) -> Result {
        self.prepare(device, sector, part, kernel::bindings::req_op_REQ_OP_READ)
    }

    /// Makes the bio a write of a part of its memory to `sector` of `device`, see
    /// [`prepare_read`](Self::prepare_read).
    pub(crate) fn prepare_write(
        &mut self,
        device: &Device,
        sector: u64,
        part: (u64, u64),
    ) -> Result {
        self.prepare(device, sector, part, kernel::bindings::req_op_REQ_OP_WRITE)
    }

    /// Makes the bio zero `sectors` sectors from `sector` of `device` on (`REQ_OP_WRITE_ZEROES`),
    /// which may free them. Errors: `EINVAL` for none, or more than a bio can have.
    pub(crate) fn prepare_zeroes(&mut self, device: &Device, sector: u64, sectors: u64) -> Result {
        self.reset(
            Some(device),
            sector,
            kernel::bindings::req_op_REQ_OP_WRITE_ZEROES,
        );
        let bytes = sectors.checked_mul(SECTOR_SIZE as u64).ok_or(EINVAL)?;
        let bytes = u32::try_from(bytes).ok().filter(|bytes| *bytes > 0);
        // SAFETY: The bio is owned and not in flight.
        unsafe { (*self.bio.as_ptr()).bi_iter.bi_size = bytes.ok_or(EINVAL)? };
        // INVARIANT: It needs no memory.
        self.prepared = true;
        Ok(())
    }

    /// The memory.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The memory, to be changed.
    pub(crate) fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Copies the data of another bio into the memory (`bio_copy_data`), and returns the vectors of
    /// that; they stay as they are until the bio is used for something else. Errors: `EINVAL` for
    /// no sectors, or more than there is memory for.
    ///
    /// # Safety
    ///
    /// `bio` must have data, not be in flight, and be the caller's.
    pub(in crate::abstractions) unsafe fn copy_data(
        &mut self,
        bio: NonNull<kernel::bindings::bio>,
    ) -> Result<*mut kernel::bindings::bio_vec> {
        // SAFETY: By this function's rules.
        let bytes = unsafe { (*bio.as_ptr()).bi_iter.bi_size };
        self.reset(None, 0, 0);
        self.add_memory((0, u64::from(bytes) / SECTOR_SIZE as u64))?;
        // SAFETY: Both have memory for so many bytes, and neither is in flight.
        unsafe { kernel::bindings::bio_copy_data(self.bio.as_ptr(), bio.as_ptr()) };
        // SAFETY: The bio is owned.
        Ok(unsafe { (*self.bio.as_ptr()).bi_io_vec })
    }

    /// Copies the data of a user's write into the memory, after the first `skipped` sectors
    /// (`bio_copy_data`). Errors: `EINVAL` where it has none, or there is not enough memory.
    pub(crate) fn copy_shared(&mut self, share: &BioShare, manner: Manner, skipped: u64) -> Result {
        if !manner.has_data() {
            return Err(EINVAL);
        }
        // The shared one may be in flight: this has its data only.
        let mut theirs: kernel::bindings::bio = pin_init::zeroed();
        theirs.bi_iter = share.iter();
        // SAFETY: The shared bio has its vectors until it ends.
        theirs.bi_io_vec = unsafe { (*share.bio().as_ptr()).bi_io_vec };
        let sectors = u64::from(theirs.bi_iter.bi_size) / SECTOR_SIZE as u64;
        self.reset(None, 0, 0);
        self.add_memory((skipped, sectors))?;
        // SAFETY: Both have memory for so many bytes, and neither is in flight. Nothing but the
        // vectors and the iterators is looked at.
        unsafe { kernel::bindings::bio_copy_data(self.bio.as_ptr(), &mut theirs) };
        Ok(())
    }

    /// Has the bio, once it is prepared as a write, be as urgent as a user's, and force its data to
    /// the medium where that one does, or with `fua`; a read gets the priority only.
    pub(crate) fn set_manner(&mut self, manner: Manner, fua: bool) {
        let Manner { opf, priority } = manner;
        // SAFETY: The bio is owned and not in flight.
        let bio = unsafe { &mut *self.bio.as_ptr() };
        bio.bi_ioprio = priority;
        if Op::from_opf(bio.bi_opf) == Op::Write {
            bio.bi_opf |= opf | if fua { bindings::REQ_FUA } else { 0 };
        }
    }

    /// Begins anew (`bio_reset`), and adds a part of the memory. Errors: `EINVAL` for no sectors,
    /// or more than there is memory for; the bio can't be submitted then.
    fn prepare(&mut self, device: &Device, sector: u64, part: (u64, u64), opf: u32) -> Result {
        self.reset(Some(device), sector, opf);
        self.add_memory(part)?;
        // INVARIANT: All that a bio needs is there.
        self.prepared = true;
        Ok(())
    }

    /// Adds a part of the memory, once, see [`Memory::add_to`].
    fn add_memory(&mut self, part: (u64, u64)) -> Result {
        // SAFETY: The bio is owned and not in flight, and has room for all of the memory. Both are
        // owned by `self`, which `submit` makes inaccessible for as long as it is in flight.
        unsafe { self.memory.add_to(self.bio, part) }
    }

    /// Begins anew, without memory (`bio_reset`).
    fn reset(&mut self, device: Option<&Device>, sector: u64, opf: u32) {
        self.prepared = false;
        let bio = self.bio.as_ptr();
        let raw = device.map_or(core::ptr::null_mut(), |device| device.as_raw());
        // SAFETY: The bio is owned and not in flight, and the device, if any, is open.
        unsafe { kernel::bindings::bio_reset(bio, raw, opf) };
        // SAFETY: As above.
        unsafe { (*bio).bi_iter.bi_sector = sector };
        self.device = device.cloned();
    }

    /// Says how urgent the bio is, once it is prepared (`bi_ioprio`).
    pub(crate) fn set_priority(&mut self, priority: Priority) {
        // SAFETY: The bio is owned and not in flight.
        unsafe { (*self.bio.as_ptr()).bi_ioprio = priority.ioprio() };
    }
}

// SAFETY: A prepared bio has all that it needs, which stays with it while it is in flight.
unsafe impl OwnBio for BufferedBio {
    fn take_prepared(&mut self) -> Option<NonNull<kernel::bindings::bio>> {
        core::mem::take(&mut self.prepared).then_some(self.bio)
    }
}

/// How urgent a bio is, for schedulers that look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// As other I/O that has nothing said about it (`IOPRIO_CLASS_BE`).
    BestEffort,
    /// Only where nobody else has anything to do, or after a long wait (`IOPRIO_CLASS_IDLE`).
    Idle,
}

impl Priority {
    fn ioprio(self) -> u16 {
        let (class, level) = match self {
            Self::BestEffort => (bindings::IOPRIO_CLASS_BE, bindings::IOPRIO_BE_NORM),
            Self::Idle => (bindings::IOPRIO_CLASS_IDLE, 0),
        };
        (class << bindings::IOPRIO_CLASS_SHIFT | level) as u16
    }
}

impl Drop for BufferedBio {
    fn drop(&mut self) {
        // SAFETY: The bio is owned, and not in flight; the set is still there, as `self` has it.
        unsafe { kernel::bindings::bio_put(self.bio.as_ptr()) }
    }
}
