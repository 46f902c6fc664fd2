// SPDX-License-Identifier: GPL-2.0

//! A bio of our own, with the memory that it reads into and writes from.

use super::{BioSet, OwnBio, SECTOR_SIZE};
use crate::abstractions::{bindings, device_mapper::Device};
use core::ptr::NonNull;
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};

/// The largest order that is tried: 64 KiB where pages have 4 KiB. Larger ones are seldom to be
/// had on a machine that has run for a while, and bring little.
const PREFERRED_ORDER: u32 = 4;

/// Physically adjacent pages (`alloc_pages`).
///
/// # Invariants
///
/// The pointer is to a compound page of that order, owned by this object.
struct Chunk {
    page: NonNull<kernel::bindings::page>,
    order: u32,
}

impl Chunk {
    /// Allocates `1 << order` pages without waking the OOM killer.
    fn new(order: u32) -> Result<Self> {
        let gfp = kernel::bindings::GFP_KERNEL
            | kernel::bindings::__GFP_NOWARN
            | bindings::__GFP_NORETRY
            | if order > 0 { bindings::__GFP_COMP } else { 0 };
        // SAFETY: `alloc_pages` has no rules but that the flags make sense.
        let page = unsafe { kernel::bindings::alloc_pages(gfp, order) };
        // INVARIANT: Just allocated with that order.
        Ok(Self {
            page: NonNull::new(page).ok_or(ENOMEM)?,
            order,
        })
    }

    fn bytes(&self) -> usize {
        PAGE_SIZE << self.order
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: The pages are owned by this object, by its invariants.
        unsafe { kernel::bindings::__free_pages(self.page.as_ptr(), self.order) }
    }
}

/// A bio that owns its memory, allocated once and used again and again.
///
/// Whoever has the `BufferedBio` has the memory too: while the bio is in flight nobody has it.
///
/// # Invariants
///
/// `bio` comes from `_set`, has room for all of `chunks`, and is not in flight. Where `prepared` is
/// set, it has its operation, its memory, and `device`.
pub(crate) struct BufferedBio {
    bio: NonNull<kernel::bindings::bio>,
    chunks: KVec<Chunk>,
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
        let bytes = (sectors as usize).checked_mul(SECTOR_SIZE).ok_or(EINVAL)?;
        let mut chunks =
            KVec::with_capacity(bytes.div_ceil(PAGE_SIZE).min(BioSet::MAX_VECS), GFP_KERNEL)?;
        let mut missing = bytes;
        let mut order = PREFERRED_ORDER.max(order_for(bytes.div_ceil(BioSet::MAX_VECS)));

        while missing > 0 {
            order = order.min(order_for(missing));
            match Chunk::new(order) {
                Ok(chunk) => {
                    missing = missing.saturating_sub(chunk.bytes());
                    chunks.push_within_capacity(chunk).map_err(|_| ENOMEM)?;
                }
                Err(error) => order = order.checked_sub(1).ok_or(error)?,
            }
        }
        let nr_vecs = u16::try_from(chunks.len()).map_err(|_| EINVAL)?;
        // INVARIANT: As many vectors as chunks; nobody has submitted the bio.
        Ok(Self {
            bio: set.alloc(nr_vecs)?,
            chunks,
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

    /// Makes the bio a read of `sectors` sectors from `sector` of `device` on.
    pub(crate) fn prepare_read(&mut self, device: &Device, sector: u64, sectors: u64) -> Result {
        self.prepare(
            device,
            sector,
            sectors,
            kernel::bindings::req_op_REQ_OP_READ,
        )
    }

    /// Makes the bio a write of the first `sectors` sectors of its memory to `sector` of `device`.
    pub(crate) fn prepare_write(&mut self, device: &Device, sector: u64, sectors: u64) -> Result {
        self.prepare(
            device,
            sector,
            sectors,
            kernel::bindings::req_op_REQ_OP_WRITE,
        )
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
        self.add_memory(u64::from(bytes) / SECTOR_SIZE as u64)?;
        // SAFETY: Both have memory for so many bytes, and neither is in flight.
        unsafe { kernel::bindings::bio_copy_data(self.bio.as_ptr(), bio.as_ptr()) };
        // SAFETY: The bio is owned.
        Ok(unsafe { (*self.bio.as_ptr()).bi_io_vec })
    }

    /// Begins anew (`bio_reset`), and adds the memory. Errors: `EINVAL` for no sectors, or more
    /// than there is memory for; the bio can't be submitted then.
    fn prepare(&mut self, device: &Device, sector: u64, sectors: u64, opf: u32) -> Result {
        self.reset(Some(device), sector, opf);
        self.add_memory(sectors)?;
        // INVARIANT: All that a bio needs is there.
        self.prepared = true;
        Ok(())
    }

    /// Adds memory for so many sectors, once. Errors: `EINVAL` for none, or too many.
    fn add_memory(&mut self, sectors: u64) -> Result {
        let bio = self.bio.as_ptr();
        let sectors = usize::try_from(sectors).map_err(|_| EINVAL)?;
        let mut missing = sectors.checked_mul(SECTOR_SIZE).ok_or(EINVAL)?;
        for chunk in &self.chunks {
            let bytes = missing.min(chunk.bytes());
            if bytes == 0 {
                break;
            }
            // The vector fits: there is room for each chunk by the type's invariants.
            //
            // SAFETY: The chunk outlives the bio's flight, as both are owned by `self`, which
            // `submit` makes inaccessible for so long.
            let added = unsafe {
                kernel::bindings::bio_add_page(bio, chunk.page.as_ptr(), bytes as c_uint, 0)
            };
            if added as usize != bytes {
                return Err(EINVAL);
            }
            missing -= bytes;
        }
        if missing > 0 || sectors == 0 {
            return Err(EINVAL);
        }
        Ok(())
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

/// The smallest order whose pages hold so many bytes.
fn order_for(bytes: usize) -> u32 {
    bytes
        .div_ceil(PAGE_SIZE)
        .next_power_of_two()
        .trailing_zeros()
}

#[kunit_tests(clone_rs_buffered_bio)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_the_bytes() {
        assert_eq!(order_for(1), 0);
        assert_eq!(order_for(PAGE_SIZE), 0);
        assert_eq!(order_for(PAGE_SIZE + 1), 1);
        assert_eq!(order_for(16 * PAGE_SIZE), 4);
    }

    #[test]
    fn memory_is_as_asked_for() -> Result {
        let set = Arc::pin_init(BioSet::new(1), GFP_KERNEL)?;
        for sectors in [8, 2048, 16384] {
            let bio = BufferedBio::new(set.clone(), sectors)?;
            let bytes: usize = bio.chunks.iter().map(Chunk::bytes).sum();
            assert!(bytes >= sectors as usize * SECTOR_SIZE);
            assert!(bio.chunks.len() <= BioSet::MAX_VECS);
        }
        Ok(())
    }
}
