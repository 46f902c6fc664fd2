// SPDX-License-Identifier: GPL-2.0

//! The device that a target is a part of.

use crate::abstractions::bindings;
use core::ptr::NonNull;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
};

/// The table of a target, to be reached from the target's own threads.
///
/// The target may keep it for longer than the table lives: then it does nothing any more.
#[pin_data]
pub(crate) struct MappedDevice {
    #[pin]
    table: Mutex<Option<Table>>,
}

/// # Invariants
///
/// The pointer is to a valid table.
struct Table(NonNull<bindings::dm_table>);

// SAFETY: What is done with it may be done by any thread.
unsafe impl Send for Table {}

impl MappedDevice {
    /// Wraps the table of a target. Errors: `ENOMEM`.
    ///
    /// # Safety
    ///
    /// The table must be valid until [`revoke`](Self::revoke) was called.
    pub(super) unsafe fn new(table: *mut bindings::dm_table) -> Result<Arc<Self>> {
        // INVARIANT: By this function's rules.
        let table = Table(NonNull::new(table).ok_or(EINVAL)?);
        Arc::pin_init(
            pin_init!(Self {
                table <- new_mutex!(Some(table), "dm_clone_rs::MappedDevice::table"),
            }),
            GFP_KERNEL,
        )
    }

    /// From here on the table is not used.
    pub(super) fn revoke(&self) {
        *self.table.lock() = None;
    }

    /// Wakes those who wait for an event of the device, if the table is live (`dm_table_event`).
    ///
    /// Context: process.
    pub(crate) fn raise_event(&self) {
        if let Some(table) = &*self.table.lock() {
            // SAFETY: The table is valid by the type's invariants.
            unsafe { bindings::dm_table_event(table.0.as_ptr()) };
        }
    }

    /// How many bios of its users the device has in flight (`bdev_count_inflight`).
    ///
    /// Context: process.
    pub(crate) fn bios_in_flight(&self) -> u32 {
        self.with_disk(|disk| {
            // SAFETY: By the rules of `with_disk`.
            unsafe { bindings::disk_count_inflight(disk) }
        })
        .unwrap_or(0)
    }

    /// How many writes, discards and flushes of its users have ended, whatever table was live
    /// (`part_stat_read`); `None` where they are not counted (the queue's attribute `iostats`).
    ///
    /// Context: process.
    pub(crate) fn ended_writes(&self) -> Option<u64> {
        self.with_disk(|disk| {
            // SAFETY: By the rules of `with_disk`.
            unsafe { bindings::disk_counts_io(disk) }.then(|| {
                // SAFETY: By the rules of `with_disk`.
                unsafe { bindings::disk_ended_writes(disk) }
            })
        })
        .flatten()
    }

    /// Runs `with` with the device's disk, which is valid for so long, unless the table is gone.
    fn with_disk<R>(&self, with: impl FnOnce(*mut kernel::bindings::gendisk) -> R) -> Option<R> {
        self.table.lock().as_ref().map(|table| {
            // SAFETY: The table is valid by the type's invariants, and with it its device.
            let md = unsafe { bindings::dm_table_get_md(table.0.as_ptr()) };
            // SAFETY: The device is valid, and has a disk as long as it lives.
            with(unsafe { bindings::dm_disk(md) })
        })
    }
}
