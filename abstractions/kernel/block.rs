// SPDX-License-Identifier: GPL-2.0

//! Block devices and plugs.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use crate::abstractions::{bindings, bio::MemoryLayout};
use kernel::{
    bindings::MINORBITS,
    error::{to_result, Result},
    fmt,
    prelude::*,
    types::Opaque, //
};

/// An open block device (`struct block_device`).
///
/// # Invariants
///
/// A reference to this type is valid for as long as the device is open.
#[repr(transparent)]
pub(crate) struct BlockDevice(Opaque<kernel::bindings::block_device>);

// SAFETY: What the methods read is constant while the device is open, or read atomically by C.
unsafe impl Send for BlockDevice {}
// SAFETY: As above.
unsafe impl Sync for BlockDevice {}

impl BlockDevice {
    /// Wraps a pointer of C.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid, and the device stay open, for `'a`.
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut kernel::bindings::block_device) -> &'a Self {
        // SAFETY: The type is transparent, and the caller keeps the device open.
        unsafe { &*ptr.cast() }
    }

    /// Returns the pointer for C.
    pub(crate) fn as_raw(&self) -> *mut kernel::bindings::block_device {
        self.0.get()
    }

    /// The device's size in sectors at this moment (`bdev_nr_sectors`).
    pub(crate) fn nr_sectors(&self) -> u64 {
        // SAFETY: The device is open by the type's invariants.
        unsafe { bindings::bdev_nr_sectors(self.as_raw()) }
    }

    /// Whether writes are refused (`bdev_read_only`).
    pub(crate) fn is_read_only(&self) -> bool {
        // SAFETY: The device is open by the type's invariants.
        unsafe { bindings::bdev_read_only(self.as_raw()) }
    }

    /// Whether the device has zones (`bdev_is_zoned`).
    pub(crate) fn is_zoned(&self) -> bool {
        // SAFETY: The device is open by the type's invariants.
        unsafe { bindings::bdev_is_zoned(self.as_raw()) }
    }

    /// Whether the device has a write cache that is lost without a flush (`bdev_write_cache`).
    pub(crate) fn has_write_cache(&self) -> bool {
        // SAFETY: The device is open by the type's invariants.
        unsafe { bindings::bdev_write_cache(self.as_raw()) }
    }

    /// Whether discards are of any use (`bdev_max_discard_sectors`).
    pub(crate) fn can_discard(&self) -> bool {
        // SAFETY: The device is open by the type's invariants.
        unsafe { bindings::bdev_max_discard_sectors(self.as_raw()) > 0 }
    }

    /// Whether the device can write zeroes without being sent any (`bdev_write_zeroes_sectors`).
    pub(crate) fn can_write_zeroes(&self) -> bool {
        // SAFETY: The device is open by the type's invariants.
        unsafe { bindings::bdev_write_zeroes_sectors(self.as_raw()) > 0 }
    }

    /// Whether the device encrypts what it is told to (`struct blk_crypto_profile`).
    pub(crate) fn encrypts_inline(&self) -> bool {
        // SAFETY: The device is open by the type's invariants.
        unsafe { bindings::bdev_has_crypto_profile(self.as_raw()) }
    }

    /// The smallest unit of I/O, in bytes (`bdev_logical_block_size`).
    pub(crate) fn logical_block_size(&self) -> u32 {
        // SAFETY: The device is open by the type's invariants.
        unsafe { bindings::bdev_logical_block_size(self.as_raw()) }
    }

    /// The same, in sectors, of which there is at least one.
    pub(crate) fn logical_block_sectors(&self) -> u32 {
        (self.logical_block_size() >> kernel::bindings::SECTOR_SHIFT).max(1)
    }

    /// How the device wants the data of a bio to lie in memory (`dma_alignment`,
    /// `virt_boundary_mask`).
    pub(crate) fn memory_layout(&self) -> MemoryLayout {
        // SAFETY: The device is open by the type's invariants.
        let (alignment, boundary) = unsafe {
            (
                bindings::bdev_dma_alignment(self.as_raw()),
                bindings::bdev_virt_boundary(self.as_raw()),
            )
        };
        MemoryLayout::new(alignment, boundary)
    }

    /// Whether so many sectors are a whole number of logical blocks, which are a power of two.
    pub(crate) fn is_block_multiple(&self, sectors: u64) -> bool {
        is_block_multiple(sectors, self.logical_block_size())
    }

    /// Writes back what is dirty in the device's page cache (`sync_blockdev`).
    ///
    /// Context: process, waits for I/O. Errors: those of the I/O.
    pub(crate) fn sync(&self) -> Result {
        // SAFETY: The device is open by the type's invariants.
        to_result(unsafe { kernel::bindings::sync_blockdev(self.as_raw()) })
    }

    /// Drops what is clean in the device's page cache (`invalidate_bdev`). Context: process.
    pub(crate) fn invalidate(&self) {
        // SAFETY: The device is open by the type's invariants.
        unsafe { kernel::bindings::invalidate_bdev(self.as_raw()) }
    }

    /// Whether both are the same device.
    pub(crate) fn is(&self, other: &Self) -> bool {
        core::ptr::eq(self, other)
    }
}

/// Whether so many sectors are a whole number of blocks, which have so many bytes, a power of two.
fn is_block_multiple(sectors: u64, block: u32) -> bool {
    let block = u64::from(block) >> kernel::bindings::SECTOR_SHIFT;
    sectors & block.saturating_sub(1) == 0
}

/// As major:minor, in decimal (`format_dev_t`).
impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: The device is open by the type's invariants; `bd_dev` never changes.
        let dev = unsafe { (*self.as_raw()).bd_dev };
        write!(f, "{}:{}", dev >> MINORBITS, dev & ((1 << MINORBITS) - 1))
    }
}

/// Runs `submit` with the bios that it submits collected and sent together (`struct blk_plug`), so
/// that the block layer can join adjacent ones. Context: process.
pub(crate) fn plugged<R>(submit: impl FnOnce() -> R) -> R {
    /// Ends the plug also where `submit` returns early.
    struct Plug(Opaque<kernel::bindings::blk_plug>);

    impl Drop for Plug {
        fn drop(&mut self) {
            // SAFETY: The plug was started by this task, below, and has not moved.
            unsafe { kernel::bindings::blk_finish_plug(self.0.get()) }
        }
    }

    let plug = core::pin::pin!(Plug(Opaque::uninit()));
    // SAFETY: The plug is pinned to this stack frame, and finished before the frame is left.
    unsafe { kernel::bindings::blk_start_plug(plug.0.get()) };
    submit()
}

#[kunit_tests(clone_rs_block)]
mod tests {
    use super::*;

    /// The only devices with blocks above 4096 bytes are those of kernels with transparent huge
    /// pages, so no other test can have a region smaller than a block.
    #[test]
    fn less_than_a_block_is_no_multiple_of_it() {
        for (sectors, block, expected) in [
            (8, 512, true),
            (8, 4096, true),
            (8, 8192, false),
            (8, 65536, false),
            (64, 65536, false),
            (128, 65536, true),
            (129, 65536, false),
            (7, 4096, false),
            (0, 4096, true),
        ] {
            assert_eq!(is_block_multiple(sectors, block), expected);
        }
    }
}
