// SPDX-License-Identifier: GPL-2.0

//! A device that a table uses.

use crate::abstractions::{bindings, block::BlockDevice};
use core::{ops::Deref, ptr::NonNull};
use kernel::{
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};

/// A device that was opened for a table ([`Constructor::get_device`](super::Constructor)).
///
/// It stays open as long as this lives, also where the table is gone already; the table's own
/// reference is put by the abstraction, after the target was dropped.
///
/// # Invariants
///
/// `bdev` is the device of `file`.
#[derive(Clone)]
pub(crate) struct Device {
    bdev: NonNull<kernel::bindings::block_device>,
    /// Keeps `bdev` open.
    _file: ARef<File>,
}

// SAFETY: The file is not used but for its reference count, and the device is `Send`.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl Device {
    /// Takes a reference to the device.
    ///
    /// # Safety
    ///
    /// `dev` must come from `dm_get_device` and not be put during the call.
    pub(super) unsafe fn new(dev: NonNull<bindings::dm_dev>) -> Result<Self> {
        // SAFETY: `dev` is valid during the call, and its members are set once.
        let dev = unsafe { dev.as_ref() };
        // SAFETY: The file is open; no file position of a block device opened by the kernel is in
        // use by `fdget_pos`, as it has no descriptor.
        let file = unsafe { File::from_raw_file(dev.bdev_file) };
        // INVARIANT: dm opened the device through this file.
        Ok(Self {
            bdev: NonNull::new(dev.bdev).ok_or(ENODEV)?,
            _file: file.into(),
        })
    }
}

impl Deref for Device {
    type Target = BlockDevice;

    fn deref(&self) -> &BlockDevice {
        // SAFETY: The device is open as long as `self` has the file, by the type's invariants.
        unsafe { BlockDevice::from_raw(self.bdev.as_ptr()) }
    }
}
