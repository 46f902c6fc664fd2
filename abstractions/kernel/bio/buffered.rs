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

/// Words of a sector.
const SECTOR_WORDS: u64 = (SECTOR_SIZE / size_of::<u64>()) as u64;

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

    /// The memory, in words.
    fn words(&self) -> &[u64] {
        // SAFETY: The pages are owned by this object, and not high memory (`GFP_KERNEL`).
        let start = unsafe { bindings::page_address(self.page.as_ptr()) };
        // SAFETY: So much memory is there, and nobody changes it: a bio that reads into it is in
        // flight only while nobody has this object, see `OwnBio`.
        unsafe { core::slice::from_raw_parts(start.cast(), self.bytes() / size_of::<u64>()) }
    }

    /// The same, to be changed.
    fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: As above.
        let start = unsafe { bindings::page_address(self.page.as_ptr()) };
        // SAFETY: As above, and nobody else has this object.
        unsafe { core::slice::from_raw_parts_mut(start.cast(), self.bytes() / size_of::<u64>()) }
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

    /// Whether `sectors` sectors of the memory, after the first `skipped` ones, are all zeroes; not
    /// where there are not so many.
    pub(crate) fn is_zero(&self, skipped: u64, sectors: u64) -> bool {
        let (mut at, mut missing) = (skipped * SECTOR_WORDS, sectors * SECTOR_WORDS);
        while missing > 0 {
            let words = self.words(at, missing);
            // Eight at a time, which compilers make the best of.
            let zero = |some: &[u64]| some.iter().fold(0, |all, word| all | word) == 0;
            if words.is_empty() || !words.chunks(8).all(zero) {
                return false;
            }
            at += words.len() as u64;
            missing -= words.len() as u64;
        }
        true
    }

    /// Whether `sectors` sectors of the memory after the first `skipped` ones are the same as those
    /// after the first `other` ones; not where there are not so many.
    pub(crate) fn is_same(&self, skipped: u64, other: u64, sectors: u64) -> bool {
        let (mut at, mut missing) = (skipped * SECTOR_WORDS, sectors * SECTOR_WORDS);
        let mut other = other * SECTOR_WORDS;
        while missing > 0 {
            let theirs = self.words(other, missing);
            let ours = self.words(at, theirs.len() as u64);
            let theirs = theirs.get(..ours.len()).unwrap_or_default();
            if ours.is_empty() || ours != theirs {
                return false;
            }
            at += ours.len() as u64;
            other += ours.len() as u64;
            missing -= ours.len() as u64;
        }
        true
    }

    /// Makes the first `sectors` sectors of the memory zeroes, or all where there are not so many.
    pub(crate) fn clear(&mut self, sectors: u64) {
        let mut missing = sectors * SECTOR_WORDS;
        for chunk in &mut self.chunks {
            let words = chunk.words_mut();
            let some = missing.min(words.len() as u64);
            words
                .iter_mut()
                .take(some as usize)
                .for_each(|word| *word = 0);
            missing -= some;
        }
    }

    /// The memory from a word on, as far as it is adjacent: at most `most` words, none after the
    /// end.
    fn words(&self, from: u64, most: u64) -> &[u64] {
        let mut skipped = from;
        for chunk in &self.chunks {
            let words = chunk.words();
            let len = words.len() as u64;
            if skipped < len {
                let end = skipped.saturating_add(most).min(len);
                return words
                    .get(skipped as usize..end as usize)
                    .unwrap_or_default();
            }
            skipped -= len;
        }
        &[]
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

    /// Begins anew (`bio_reset`), and adds a part of the memory. Errors: `EINVAL` for no sectors,
    /// or more than there is memory for; the bio can't be submitted then.
    fn prepare(&mut self, device: &Device, sector: u64, part: (u64, u64), opf: u32) -> Result {
        self.reset(Some(device), sector, opf);
        self.add_memory(part)?;
        // INVARIANT: All that a bio needs is there.
        self.prepared = true;
        Ok(())
    }

    /// Adds memory for so many sectors, after the first `skipped` ones, once. Errors: `EINVAL` for
    /// none, or too many.
    fn add_memory(&mut self, (skipped, sectors): (u64, u64)) -> Result {
        let bio = self.bio.as_ptr();
        let bytes = |sectors: u64| {
            usize::try_from(sectors)
                .ok()
                .and_then(|sectors| sectors.checked_mul(SECTOR_SIZE))
                .ok_or(EINVAL)
        };
        let (mut skipped, mut missing) = (bytes(skipped)?, bytes(sectors)?);
        for chunk in &self.chunks {
            let from = skipped.min(chunk.bytes());
            let bytes = missing.min(chunk.bytes() - from);
            skipped -= from;
            if bytes == 0 {
                continue;
            }
            // The vector fits: there is room for each chunk by the type's invariants.
            //
            // SAFETY: The chunk outlives the bio's flight, as both are owned by `self`, which
            // `submit` makes inaccessible for so long. So many bytes are there from `from` on.
            let added = unsafe {
                kernel::bindings::bio_add_page(
                    bio,
                    chunk.page.as_ptr(),
                    bytes as c_uint,
                    from as c_uint,
                )
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

/// For tests: a bio whose memory holds the number of each word, from 1 on.
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) fn test_memory(sectors: u32) -> Result<BufferedBio> {
    let set = Arc::pin_init(BioSet::new(1), GFP_KERNEL)?;
    let mut bio = BufferedBio::new(set, sectors)?;
    for (number, word) in (1..).zip(bio.chunks.iter_mut().flat_map(Chunk::words_mut)) {
        *word = number;
    }
    Ok(bio)
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

    /// The words at these places are added to.
    fn change(bio: &mut BufferedBio, at: &[u64]) {
        for (number, word) in (0..).zip(bio.chunks.iter_mut().flat_map(Chunk::words_mut)) {
            if at.contains(&number) {
                *word += 1;
            }
        }
    }

    #[test]
    fn zeroes_are_told_from_data() -> Result {
        // Two chunks of 64 KiB, and a part of one.
        let mut bio = test_memory(300)?;
        assert!(!bio.is_zero(1, 1) && !bio.is_zero(0, 300));
        bio.clear(270);
        assert!(bio.is_zero(0, 270) && bio.is_zero(127, 2) && bio.is_zero(269, 1));
        assert!(!bio.is_zero(269, 2) && !bio.is_zero(270, 1));
        // The last word of a sector, the first one of the next chunk's.
        change(&mut bio, &[63, 128 * 64]);
        assert!(!bio.is_zero(0, 1) && bio.is_zero(1, 127));
        assert!(!bio.is_zero(1, 128) && !bio.is_zero(128, 1) && bio.is_zero(129, 141));
        // There is not so much.
        bio.clear(u64::from(u32::MAX));
        assert!(bio.is_zero(0, 300) && !bio.is_zero(0, 10_000) && !bio.is_zero(10_000, 1));
        Ok(())
    }

    #[test]
    fn halves_are_compared() -> Result {
        // The second half does not begin where a chunk does.
        let mut bio = test_memory(280)?;
        for at in [1, 64, 127, 140] {
            assert!(bio.is_same(at, at, 1) && !bio.is_same(0, at, 1));
        }
        bio.clear(280);
        assert!(bio.is_same(0, 140, 140));
        change(&mut bio, &[139 * 64 + 63]);
        assert!(!bio.is_same(0, 140, 140) && bio.is_same(0, 140, 139));
        change(&mut bio, &[279 * 64 + 63]);
        assert!(bio.is_same(0, 140, 140));
        change(&mut bio, &[200 * 64]);
        assert!(!bio.is_same(0, 140, 140) && !bio.is_same(60, 200, 1) && bio.is_same(61, 201, 79));
        assert!(!bio.is_same(0, 10_000, 1));
        Ok(())
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
