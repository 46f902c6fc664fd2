// SPDX-License-Identifier: GPL-2.0

//! Memory management.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::abstractions::bindings;
use kernel::page::PAGE_SIZE;

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
