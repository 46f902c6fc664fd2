// SPDX-License-Identifier: GPL-2.0

//! Memory management.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::abstractions::bindings;
use core::ptr::{null, NonNull};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// The machine's memory in bytes (`totalram_pages`). Context: any.
pub(crate) fn total_memory() -> u64 {
    // SAFETY: It only reads a counter.
    let pages = unsafe { bindings::totalram_pages() };
    (pages as u64).saturating_mul(PAGE_SIZE as u64)
}

/// Runs `allocate` so that no allocation in it waits for I/O (`memalloc_noio_save`). Context:
/// process.
pub(crate) fn without_io<R>(allocate: impl FnOnce() -> R) -> R {
    // SAFETY: It only changes the task's flags, which are put back below.
    let flags = unsafe { bindings::memalloc_noio_save() };
    let result = allocate();
    // SAFETY: The flags are those of this task.
    unsafe { bindings::memalloc_noio_restore(flags) };
    result
}

/// Allocates an empty vector with that capacity, without calling the OOM killer: `alloc::Flags` has
/// no `__GFP_NORETRY`.
///
/// Context: process, may sleep. Errors: `ENOMEM`.
pub(crate) fn large_vec<T>(capacity: usize) -> Result<KVVec<T>> {
    let bytes = capacity
        .checked_mul(size_of::<T>())
        .filter(|bytes| (1..=isize::MAX as usize).contains(bytes))
        .ok_or(ENOMEM)?;
    let gfp =
        kernel::bindings::GFP_KERNEL | kernel::bindings::__GFP_NOWARN | bindings::__GFP_NORETRY;
    // SAFETY: There is nothing to be reallocated.
    let memory = unsafe {
        kernel::bindings::kvrealloc_node_align(
            null(),
            bytes,
            align_of::<T>(),
            gfp,
            kernel::bindings::NUMA_NO_NODE,
        )
    };
    let memory = NonNull::new(memory.cast::<T>()).ok_or(ENOMEM)?;
    // SAFETY: This is the function that `KVmalloc` allocates with, and size and alignment are those
    // of so many elements, none of which is there yet. The size is not 0, so `T` is no ZST.
    Ok(unsafe { KVVec::from_raw_parts(memory.as_ptr(), 0, capacity) })
}

#[kunit_tests(clone_rs_mm)]
mod tests {
    use super::*;

    #[test]
    fn a_large_vec_has_room() -> Result {
        // Of a page, and of more than `kmalloc` gives.
        for capacity in [1, 1 << 20] {
            let mut vec = large_vec::<u64>(capacity)?;
            for value in 0..capacity as u64 {
                vec.push_within_capacity(value).map_err(|_| ENOMEM)?;
            }
            assert!(vec.push_within_capacity(0).is_err());
            assert_eq!(vec.last(), Some(&(capacity as u64 - 1)));
        }
        Ok(())
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert!(large_vec::<u64>(0).is_err());
        assert!(large_vec::<u64>(usize::MAX).is_err());
        assert!(large_vec::<u8>(usize::MAX).is_err());
        assert!(large_vec::<()>(1).is_err());
    }
}
