// SPDX-License-Identifier: GPL-2.0

//! Where in memory the data of a bio may lie.

use core::ptr::NonNull;
use kernel::prelude::*;

/// How a device wants the data of a bio to lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLayout {
    /// Bits that must be 0 in the address and the length of each piece, in bytes.
    alignment: u32,
    /// Bits that must be 0 where one piece ends and the next one begins.
    boundary: u64,
}

impl MemoryLayout {
    /// Both are masks: a power of two less one.
    pub(in crate::abstractions) fn new(alignment: u32, boundary: c_ulong) -> Self {
        Self {
            alignment,
            boundary: boundary as u64,
        }
    }

    /// Whether something may be fit for the other one, and unfit for this one.
    pub(crate) fn is_stricter_than(self, other: Self) -> bool {
        self.alignment & !other.alignment != 0 || self.boundary & !other.boundary != 0
    }

    /// Whether pieces must not have gaps between them: where one is split that has, its parts are
    /// no whole logical blocks of a device with larger ones.
    pub(crate) fn has_boundary(self) -> bool {
        self.boundary != 0
    }

    /// Whether a bio's data lies like that. It may say no for what the block layer would split.
    ///
    /// # Safety
    ///
    /// The bio must be valid, and nobody change it meanwhile.
    pub(in crate::abstractions) unsafe fn fits(self, bio: NonNull<kernel::bindings::bio>) -> bool {
        // SAFETY: By this function's rules.
        let (mut vec, iter) = unsafe { ((*bio.as_ptr()).bi_io_vec, (*bio.as_ptr()).bi_iter) };
        let (mut left, mut done) = (iter.bi_size, iter.bi_bvec_done);
        vec = vec.wrapping_add(iter.bi_idx as usize);
        let mut before = None;
        while left > 0 {
            // SAFETY: The bio has vectors for all of its size.
            let (offset, len) = unsafe { ((*vec).bv_offset, (*vec).bv_len) };
            let (begin, len) = (offset + done, (len - done).min(left));
            if !self.is_fit(before, begin, len) {
                return false;
            }
            before = Some(begin + len);
            left -= len;
            done = 0;
            vec = vec.wrapping_add(1);
        }
        true
    }

    /// Whether a piece may follow one that ends there.
    fn is_fit(self, before: Option<u32>, begin: u32, len: u32) -> bool {
        let gap = before.is_some_and(|end| u64::from(begin | end) & self.boundary != 0);
        (begin | len) & self.alignment == 0 && !gap
    }
}

#[kunit_tests(clone_rs_memory_layout)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_looked_at() {
        let layout = MemoryLayout::new(511, 4095);
        assert!(layout.is_fit(None, 512, 3584));
        assert!(layout.is_fit(Some(4096), 0, 512));
        assert!(layout.is_fit(Some(8192), 4096, 512));
        // Begin, length, a gap on either side.
        assert!(!layout.is_fit(None, 4, 512));
        assert!(!layout.is_fit(None, 0, 508));
        assert!(!layout.is_fit(Some(4096), 512, 512));
        assert!(!layout.is_fit(Some(3584), 0, 512));
        assert!(MemoryLayout::new(3, 0).is_fit(Some(5), 4, 508));
    }

    #[test]
    fn stricter_is_what_allows_less() {
        let layout = MemoryLayout::new;
        assert!(!layout(3, 0).is_stricter_than(layout(3, 0)));
        assert!(!layout(3, 0).is_stricter_than(layout(511, 4095)));
        assert!(layout(511, 0).is_stricter_than(layout(3, 4095)));
        assert!(layout(3, 4095).is_stricter_than(layout(511, 0)));
    }
}
