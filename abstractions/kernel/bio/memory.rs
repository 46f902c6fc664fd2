// SPDX-License-Identifier: GPL-2.0

//! The memory that a bio of our own reads into and writes from.

use super::{BioSet, SECTOR_SIZE};
use crate::abstractions::{
    bindings,
    kernel::mm::large_vec, //
};
use core::ptr::NonNull;
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
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
/// The page is a compound page of that order, owned by this object; its `len` words are mapped at
/// `start`.
struct Chunk {
    page: NonNull<kernel::bindings::page>,
    order: u32,
    start: *mut u64,
    len: usize,
    /// How many words the chunks before this one have.
    before: u64,
}

impl Chunk {
    /// Allocates `1 << order` pages, after so many words, without waking the OOM killer.
    fn new(order: u32, before: u64) -> Result<Self> {
        let gfp = kernel::bindings::GFP_KERNEL
            | kernel::bindings::__GFP_NOWARN
            | bindings::__GFP_NORETRY
            | if order > 0 { bindings::__GFP_COMP } else { 0 };
        // SAFETY: `alloc_pages` has no rules but that the flags make sense.
        let page = NonNull::new(unsafe { kernel::bindings::alloc_pages(gfp, order) });
        let page = page.ok_or(ENOMEM)?;
        // SAFETY: It was just allocated.
        let start = unsafe { bindings::page_address(page.as_ptr()) };
        // INVARIANT: Just allocated with that order. What is not high memory (`GFP_KERNEL`) is
        // mapped for as long as it is there.
        Ok(Self {
            page,
            order,
            start: start.cast(),
            len: (PAGE_SIZE << order) / size_of::<u64>(),
            before,
        })
    }

    fn bytes(&self) -> usize {
        self.len * size_of::<u64>()
    }

    /// The memory, in words.
    fn words(&self) -> &[u64] {
        // SAFETY: So much memory is there, by the invariants, and nobody changes it: a bio that
        // reads into it is in flight only while nobody has this object, see `OwnBio`.
        unsafe { core::slice::from_raw_parts(self.start, self.len) }
    }

    /// The same, to be changed.
    fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: As above, and nobody else has this object.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Where a word of the memory is in it; past its end where it does not have that.
    #[inline]
    fn place(&self, word: u64) -> usize {
        word.wrapping_sub(self.before) as usize
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: The pages are owned by this object, by its invariants.
        unsafe { kernel::bindings::__free_pages(self.page.as_ptr(), self.order) }
    }
}

/// Memory for some sectors, in pieces that are each adjacent.
pub(crate) struct Memory {
    /// None is larger than one before it.
    chunks: KVVec<Chunk>,
    /// The words of the first one, as a power of two.
    first: u32,
}

impl Memory {
    /// Allocates memory for `sectors` sectors, in as large pieces as are to be had.
    ///
    /// Context: process, may sleep. Errors: `ENOMEM`, also where the pieces that are to be had are
    /// too small for one bio; the OOM killer is never called.
    pub(super) fn new(sectors: u32) -> Result<Self> {
        let bytes = (sectors as usize).checked_mul(SECTOR_SIZE).ok_or(EINVAL)?;
        // More than a page where there are many: not adjacent ones, either.
        let mut chunks = large_vec(bytes.div_ceil(PAGE_SIZE).min(BioSet::MAX_VECS))?;
        let (mut missing, mut before) = (bytes, 0);
        let mut order = PREFERRED_ORDER.max(order_for(bytes.div_ceil(BioSet::MAX_VECS)));

        while missing > 0 {
            order = order.min(order_for(missing));
            match Chunk::new(order, before) {
                Ok(chunk) => {
                    missing = missing.saturating_sub(chunk.bytes());
                    before += chunk.len as u64;
                    chunks.push_within_capacity(chunk).map_err(|_| ENOMEM)?;
                }
                Err(error) => order = order.checked_sub(1).ok_or(error)?,
            }
        }
        let first = chunks.first().map_or(0, |chunk| chunk.len.ilog2());
        Ok(Self { chunks, first })
    }

    /// How many vectors a bio needs for all of it.
    pub(super) fn nr_vecs(&self) -> usize {
        self.chunks.len()
    }

    /// Adds a part of the memory to a bio that has none: `sectors` sectors, after the first
    /// `skipped` ones. Errors: `EINVAL` for none, or where there are not so many.
    ///
    /// # Safety
    ///
    /// The bio must be the caller's, have room for [`nr_vecs`](Self::nr_vecs) vectors, and not be
    /// in flight while somebody can get at this object.
    pub(super) unsafe fn add_to(
        &self,
        bio: NonNull<kernel::bindings::bio>,
        (skipped, sectors): (u64, u64),
    ) -> Result {
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
            // The vector fits: there is room for each chunk by this function's rules.
            //
            // SAFETY: The same rules have the chunk outlive the bio's flight. So many bytes are
            // there from `from` on.
            let added = unsafe {
                kernel::bindings::bio_add_page(
                    bio.as_ptr(),
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

    /// Copies `sectors` sectors, after the first `from` ones, to after the first `to` ones, a
    /// sector after the other; those that there are not are left out.
    pub(crate) fn copy(&mut self, from: u64, to: u64, sectors: u64) {
        for sector in 0..sectors {
            let mut data = [0; SECTOR_WORDS as usize];
            let theirs = self.words((from + sector) * SECTOR_WORDS, SECTOR_WORDS);
            for (word, their) in data.iter_mut().zip(theirs) {
                *word = *their;
            }
            let there = theirs.len();
            let ours = self.words_mut((to + sector) * SECTOR_WORDS);
            for (our, word) in ours.iter_mut().zip(data).take(there) {
                *our = word;
            }
        }
    }

    /// The memory from a word on, as far as it is adjacent: at most `most` words, none after the
    /// end.
    #[inline]
    fn words(&self, from: u64, most: u64) -> &[u64] {
        let words = self
            .chunks
            .get(self.chunk_of(from))
            .and_then(|chunk| chunk.words().get(chunk.place(from)..))
            .unwrap_or_default();
        words
            .get(..words.len().min(most as usize))
            .unwrap_or_default()
    }

    /// The same, to be changed, as far as it is adjacent.
    fn words_mut(&mut self, from: u64) -> &mut [u64] {
        let chunk = self.chunk_of(from);
        self.chunks
            .get_mut(chunk)
            .and_then(|chunk| {
                let place = chunk.place(from);
                chunk.words_mut().get_mut(place..)
            })
            .unwrap_or_default()
    }

    /// Which chunk a word is in, if there is one that has it.
    #[inline]
    fn chunk_of(&self, word: u64) -> usize {
        // Most are as large as the first one.
        let guess = (word >> self.first) as usize;
        match self.chunks.get(guess) {
            Some(chunk) if chunk.place(word) < chunk.len => guess,
            _ => {
                let after = self.chunks.partition_point(|chunk| chunk.before <= word);
                after.saturating_sub(1)
            }
        }
    }
}

/// The smallest order whose pages hold so many bytes.
fn order_for(bytes: usize) -> u32 {
    bytes
        .div_ceil(PAGE_SIZE)
        .next_power_of_two()
        .trailing_zeros()
}

/// For tests: memory that holds the number of each word, from 1 on.
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) fn test_memory(sectors: u32) -> Result<Memory> {
    let mut memory = Memory::new(sectors)?;
    for (number, word) in (1..).zip(memory.chunks.iter_mut().flat_map(Chunk::words_mut)) {
        *word = number;
    }
    Ok(memory)
}

#[kunit_tests(clone_rs_bio_memory)]
mod tests {
    use super::*;
    use kernel::time::{Instant, Monotonic};

    #[test]
    fn order_holds_the_bytes() {
        assert_eq!(order_for(1), 0);
        assert_eq!(order_for(PAGE_SIZE), 0);
        assert_eq!(order_for(PAGE_SIZE + 1), 1);
        assert_eq!(order_for(16 * PAGE_SIZE), 4);
    }

    /// The words at these places are added to.
    fn change(memory: &mut Memory, at: &[u64]) {
        for (number, word) in (0..).zip(memory.chunks.iter_mut().flat_map(Chunk::words_mut)) {
            if at.contains(&number) {
                *word += 1;
            }
        }
    }

    #[test]
    fn zeroes_are_told_from_data() -> Result {
        // Two chunks of 64 KiB, and a part of one.
        let mut memory = test_memory(300)?;
        assert!(!memory.is_zero(1, 1) && !memory.is_zero(0, 300));
        memory.clear(270);
        assert!(memory.is_zero(0, 270) && memory.is_zero(127, 2) && memory.is_zero(269, 1));
        assert!(!memory.is_zero(269, 2) && !memory.is_zero(270, 1));
        // The last word of a sector, the first one of the next chunk's.
        change(&mut memory, &[63, 128 * 64]);
        assert!(!memory.is_zero(0, 1) && memory.is_zero(1, 127));
        assert!(!memory.is_zero(1, 128) && !memory.is_zero(128, 1) && memory.is_zero(129, 141));
        // There is not so much.
        memory.clear(u64::from(u32::MAX));
        assert!(memory.is_zero(0, 300) && !memory.is_zero(0, 10_000) && !memory.is_zero(10_000, 1));
        Ok(())
    }

    #[test]
    fn halves_are_compared() -> Result {
        // The second half does not begin where a chunk does.
        let mut memory = test_memory(280)?;
        for at in [1, 64, 127, 140] {
            assert!(memory.is_same(at, at, 1) && !memory.is_same(0, at, 1));
        }
        memory.clear(280);
        assert!(memory.is_same(0, 140, 140));
        change(&mut memory, &[139 * 64 + 63]);
        assert!(!memory.is_same(0, 140, 140) && memory.is_same(0, 140, 139));
        change(&mut memory, &[279 * 64 + 63]);
        assert!(memory.is_same(0, 140, 140));
        change(&mut memory, &[200 * 64]);
        assert!(
            !memory.is_same(0, 140, 140)
                && !memory.is_same(60, 200, 1)
                && memory.is_same(61, 201, 79)
        );
        assert!(!memory.is_same(0, 10_000, 1));
        Ok(())
    }

    #[test]
    fn parts_are_copied() -> Result {
        // From one chunk to another one, over the border of two.
        let mut memory = test_memory(300)?;
        memory.copy(3, 126, 4);
        assert!(memory.is_same(3, 126, 4));
        assert!(!memory.is_same(2, 125, 1) && !memory.is_same(7, 130, 1));
        let untouched = test_memory(300)?;
        let same = |memory: &Memory, at: u64| {
            memory.words(at * SECTOR_WORDS, SECTOR_WORDS)
                == untouched.words(at * SECTOR_WORDS, SECTOR_WORDS)
        };
        assert!((0..300).all(|at| same(&memory, at) != (126..130).contains(&at)));
        // What there is not.
        memory.copy(10_000, 0, 1);
        memory.copy(0, 10_000, 1);
        assert!((0..300).all(|at| same(&memory, at) != (126..130).contains(&at)));
        Ok(())
    }

    /// As where memory was short: chunks of two pages, of one, and of one.
    #[test]
    fn words_are_found_in_smaller_chunks() -> Result {
        let mut chunks = KVVec::new();
        let mut before = 0;
        for order in [1, 0, 0] {
            let chunk = Chunk::new(order, before)?;
            before += chunk.len as u64;
            chunks.push(chunk, GFP_KERNEL)?;
        }
        let first = order_for(2 * PAGE_SIZE) + PAGE_SIZE.ilog2() - size_of::<u64>().ilog2();
        let mut memory = Memory { chunks, first };
        for word in 0..before {
            let words = memory.words_mut(word);
            *words.first_mut().ok_or(EINVAL)? = word;
        }
        for word in 0..before {
            assert_eq!(memory.words(word, 1), [word]);
        }
        assert!(memory.words(before, 1).is_empty() && memory.words_mut(before).is_empty());
        Ok(())
    }

    /// How long the best of some runs takes, in nanoseconds.
    fn best_time(work: impl Fn() -> bool) -> i64 {
        let run = |_| {
            let begin = Instant::<Monotonic>::now();
            assert!(work());
            begin.elapsed().as_nanos()
        };
        (0..20).map(run).min().unwrap_or(0)
    }

    /// Fails for nothing but wrong answers: `tests/bench/memory_speed.py` reads the figures.
    #[test]
    fn speeds_are_told() -> Result {
        let mut memory = Memory::new(2048)?;
        memory.clear(2048);
        let zero = best_time(|| memory.is_zero(0, 1024));
        let same = best_time(|| memory.is_same(0, 1024, 1024));
        let memcmp = best_time(|| {
            let (ours, theirs) = memory.chunks.split_at(memory.chunks.len() / 2);
            let same = |(ours, theirs): (&Chunk, &Chunk)| {
                let (ours, theirs) = (ours.words(), theirs.words());
                let bytes = size_of_val(ours).min(size_of_val(theirs));
                // SAFETY: Both have so many bytes.
                0 == unsafe {
                    kernel::bindings::memcmp(ours.as_ptr().cast(), theirs.as_ptr().cast(), bytes)
                }
            };
            ours.iter().zip(theirs).all(same)
        });
        pr_info!("512 KiB in ns: is_zero {zero} is_same {same} memcmp {memcmp}\n");
        Ok(())
    }

    #[test]
    fn memory_is_as_asked_for() -> Result {
        for sectors in [8, 2048, 16384] {
            let memory = Memory::new(sectors)?;
            let bytes: usize = memory.chunks.iter().map(Chunk::bytes).sum();
            assert!(bytes >= sectors as usize * SECTOR_SIZE);
            assert!(memory.chunks.len() <= BioSet::MAX_VECS);
        }
        Ok(())
    }
}
