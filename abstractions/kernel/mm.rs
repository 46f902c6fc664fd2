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
