// SPDX-License-Identifier: GPL-2.0

//! What a target's constructor works with.

use super::{Device, DeviceName, MappedDevice};
use crate::abstractions::bindings;
use core::ptr::NonNull;
use kernel::{alloc::AllocError, error::to_result, prelude::*, sync::Arc};

/// The words of a table line or of a message.
#[derive(Clone, Copy)]
pub(crate) struct Args<'a> {
    argv: &'a [*mut c_char],
}

impl<'a> Args<'a> {
    /// Wraps the arguments of a callback.
    ///
    /// # Safety
    ///
    /// `argv` must point to `argc` pointers to strings that all are valid and constant for `'a`.
    pub(super) unsafe fn new(argc: c_uint, argv: *mut *mut c_char) -> Self {
        let argv = if argc == 0 {
            &[]
        } else {
            // SAFETY: By this function's rules.
            unsafe { core::slice::from_raw_parts(argv, argc as usize) }
        };
        Self { argv }
    }

    /// The words, as bytes: what an administrator types need not be UTF-8.
    pub(crate) fn iter(self) -> impl ExactSizeIterator<Item = &'a CStr> {
        self.argv
            .iter()
            // SAFETY: Each pointer is to a string that is valid for `'a`, by `new`'s rules.
            .map(|&arg| unsafe { CStr::from_char_ptr(arg) })
    }
}

/// Why a table is refused: the text for `ti->error`, and the errno.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CtrError {
    /// Static, as it is printed after the constructor has returned.
    pub(crate) text: &'static CStr,
    /// What the ioctl returns.
    pub(crate) errno: Error,
}

impl CtrError {
    /// An error of the input: `EINVAL`.
    pub(crate) const fn invalid(text: &'static CStr) -> Self {
        Self {
            text,
            errno: EINVAL,
        }
    }
}

impl From<Error> for CtrError {
    fn from(errno: Error) -> Self {
        let text = if errno.to_errno() == ENOMEM.to_errno() {
            c"Cannot allocate memory"
        } else {
            c"Cannot set up the target"
        };
        Self { text, errno }
    }
}

impl From<AllocError> for CtrError {
    fn from(error: AllocError) -> Self {
        Error::from(error).into()
    }
}

/// How many bios the core sends to a target for one of these (`ti->num_*_bios`).
pub(crate) struct BioCounts {
    pub(crate) flush: u32,
    pub(crate) discard: u32,
    pub(crate) secure_erase: u32,
    pub(crate) write_zeroes: u32,
}

/// The target under construction (`struct dm_target`). Context: process, may sleep.
pub(crate) struct Constructor<'a> {
    ti: &'a mut bindings::dm_target,
    mapped_device: &'a Arc<MappedDevice>,
    devices: &'a mut KVec<NonNull<bindings::dm_dev>>,
}

impl<'a> Constructor<'a> {
    pub(super) fn new(
        ti: &'a mut bindings::dm_target,
        mapped_device: &'a Arc<MappedDevice>,
        devices: &'a mut KVec<NonNull<bindings::dm_dev>>,
    ) -> Self {
        Self {
            ti,
            mapped_device,
            devices,
        }
    }

    /// The mapped device.
    pub(crate) fn mapped_device(&self) -> Arc<MappedDevice> {
        self.mapped_device.clone()
    }

    /// The mapped device's name (`dm_table_device_name`).
    pub(crate) fn device_name(&self) -> DeviceName {
        // SAFETY: The table is valid while its targets are constructed.
        let name = unsafe { bindings::dm_table_device_name(self.ti.table) };
        // SAFETY: The core returns a string that is valid as long as the mapped device.
        DeviceName::new(unsafe { CStr::from_char_ptr(name) })
    }

    /// The target's first sector on the mapped device.
    pub(crate) fn begin(&self) -> u64 {
        self.ti.begin
    }

    /// The target's length in sectors.
    pub(crate) fn len(&self) -> u64 {
        self.ti.len
    }

    /// Opens a device, by path or major:minor, in the table's mode (`dm_get_device`).
    ///
    /// Errors: those of the look-up, `EBUSY` where somebody else has claimed the device.
    pub(crate) fn get_device(&mut self, path: &CStr) -> Result<Device> {
        self.devices.reserve(1, GFP_KERNEL)?;
        let mut dev = core::ptr::null_mut();
        // SAFETY: `ti` is under construction, its table is valid, and `path` is a string.
        to_result(unsafe {
            bindings::dm_get_device(
                self.ti,
                path.as_char_ptr(),
                bindings::dm_table_get_mode(self.ti.table),
                &mut dev,
            )
        })?;
        let dev = NonNull::new(dev).ok_or(ENODEV)?;
        // From here on the abstraction puts it. There is room: it was reserved.
        self.devices.push_within_capacity(dev).map_err(|_| ENOMEM)?;
        // SAFETY: `dev` was just got.
        unsafe { Device::new(dev) }
    }

    /// Says which bios without data the target wants.
    pub(crate) fn set_bio_counts(&mut self, counts: BioCounts) {
        self.ti.num_flush_bios = counts.flush;
        self.ti.num_discard_bios = counts.discard;
        self.ti.num_secure_erase_bios = counts.secure_erase;
        self.ti.num_write_zeroes_bios = counts.write_zeroes;
    }
}
