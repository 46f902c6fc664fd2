// SPDX-License-Identifier: GPL-2.0

//! The interface that a target implements.

use super::{
    Args, Constructor, CtrError, Device, EndResult, EndingBio, Instances, MapResult, MappedBio,
    Text,
};
use crate::abstractions::{bindings, block::BlockDevice};
use core::ptr::NonNull;
use kernel::{
    error::VTABLE_DEFAULT_ERROR,
    prelude::*, //
};

/// What a target can do (`DM_TARGET_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Features(pub(super) u64);

impl Features {
    /// Tables are never read-only.
    pub(crate) const ALWAYS_WRITEABLE: Self = Self(bindings::DM_TARGET_ALWAYS_WRITEABLE as u64);
    /// Integrity data goes to the lower device.
    pub(crate) const PASSES_INTEGRITY: Self = Self(bindings::DM_TARGET_PASSES_INTEGRITY as u64);
    /// `REQ_NOWAIT` is honoured.
    pub(crate) const NOWAIT: Self = Self(bindings::DM_TARGET_NOWAIT as u64);
    /// Encryption contexts go to the lower device.
    pub(crate) const PASSES_CRYPTO: Self = Self(bindings::DM_TARGET_PASSES_CRYPTO as u64);
    /// `REQ_ATOMIC` writes stay whole.
    pub(crate) const ATOMIC_WRITES: Self = Self(bindings::DM_TARGET_ATOMIC_WRITES as u64);

    /// Both sets together.
    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What is asked for by `status` (`status_type_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusType {
    /// The state and the counters (`dmsetup status`).
    Info,
    /// The table line (`dmsetup table`).
    Table,
    /// What is measured by IMA.
    Ima,
}

/// Whether an ioctl for the mapped device may go to the lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IoctlAccess {
    /// The target maps the whole device.
    Whole,
    /// Only a part of it: the core refuses what needs `CAP_SYS_RAWIO` to those who lack it.
    Part,
}

/// What a message does: it acts or answers, never both, as libdm sends one again whose answer did
/// not fit.
pub(crate) enum Reply<T> {
    /// It has acted.
    Done,
    /// It is answered by this function. The answer is written where the message is, so that nothing
    /// of the message can be kept until then.
    Answer(fn(&T, &mut Text<'_>)),
}

/// Whether a suspend sends on what the upper layers have cached (`dm_noflush_suspending`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspend {
    /// The file system above is frozen, and its I/O ends before the suspend does.
    Flush,
    /// Bios may wait for the resume, above the target.
    NoFlush,
}

/// The limits of a mapped device (`struct queue_limits`).
pub(crate) struct Limits<'a>(pub(super) &'a mut kernel::bindings::queue_limits);

impl Limits<'_> {
    /// Pages must not change while they are written (`BLK_FEAT_STABLE_WRITES`).
    pub(crate) fn set_stable_writes(&mut self) {
        self.0.features |= bindings::BLK_FEAT_STABLE_WRITES;
    }
}

/// The callout of `iterate_devices`.
pub(crate) struct IterateDevices<'a> {
    pub(super) ti: *mut bindings::dm_target,
    pub(super) callout: bindings::iterate_devices_callout_fn,
    pub(super) data: *mut c_void,
    pub(super) devices: &'a [NonNull<bindings::dm_dev>],
}

impl IterateDevices<'_> {
    /// Tells the core of a range of `device`, in sectors; what is not 0 ends the iteration, and is
    /// to be returned.
    pub(crate) fn call(&self, device: &Device, start: u64, len: u64) -> c_int {
        let Some(callout) = self.callout else {
            return 0;
        };
        let ours = self.devices.iter().find(|dev| {
            // SAFETY: The devices are got, and put only after the last callback.
            core::ptr::eq(unsafe { (*dev.as_ptr()).bdev }, device.as_raw())
        });
        // SAFETY: All are as the core gave them, and the device is one of this target's.
        ours.map_or(0, |dev| unsafe {
            callout(self.ti, dev.as_ptr(), start, len, self.data)
        })
    }
}

/// A device-mapper target.
///
/// Callbacks run concurrently where not said otherwise, hence `&self`.
#[vtable]
pub(crate) trait Target: Send + Sync + Sized + 'static {
    /// The name in a table line.
    const NAME: &'static CStr;
    /// Major, minor, patch level.
    const VERSION: [u32; 3];
    /// What it can do.
    const FEATURES: Features;

    /// What a bio takes along from [`map`](Self::map) to [`end_io`](Self::end_io)
    /// (`per_io_data_size`); the default one goes into `map`.
    type BioData: Copy + Default + Send;

    /// Makes a target of a table line. Context: process; the old table may be live.
    fn ctr(ti: &mut Constructor<'_>, args: Args<'_>) -> Result<Pin<KBox<Self>>, CtrError>;

    /// Whether it may be there beside another one; asked when it was made, before the others know
    /// of it. Context: process, under a lock that others wait for while their device is suspended.
    fn check_beside(&self, other: &Self) -> Result<(), CtrError>;

    /// Stops all that the target does by itself, and waits for it; it is dropped after that.
    /// Context: process, no bio of the core's is in flight.
    fn dtr(&self);

    /// Decides where a bio goes. Context: process; must not wait for I/O of the same device.
    fn map<'a>(&self, bio: MappedBio<'a, Self::BioData>) -> MapResult<'a>;

    /// A bio has ended, and all shares of it are gone; its owner hears of it after this. Context:
    /// any, hard interrupts among them.
    fn end_io<'a>(&self, _bio: EndingBio<'a, Self::BioData>) -> EndResult<'a> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// A suspend begins. Context: process.
    fn presuspend(&self, _how: Suspend) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// The suspend was interrupted; the device goes on. Context: process.
    fn presuspend_undo(&self) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// All bios of the core's have ended. Context: process.
    fn postsuspend(&self) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// The device is about to be resumed with this table; an error stops that. Where the table has
    /// taken another's place, the targets of that are still there, and suspended. Context: process;
    /// what it allocates does not wait for I/O (`memalloc_noio_save`).
    fn preresume(&self, _others: &Instances<Self>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// The device is resumed. Context: process.
    fn resume(&self) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Answers a status request. Context: process.
    fn status(&self, kind: StatusType, text: &mut Text<'_>);

    /// Handles a message. Context: process, inside the section that a suspend waits for: must not
    /// wait for I/O, and what it allocates does not wait for any (`memalloc_noio_save`).
    fn message(&self, _args: Args<'_>) -> Result<Reply<Self>> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Says which device an ioctl goes to. Context: process.
    fn prepare_ioctl(&self) -> (&BlockDevice, IoctlAccess) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Changes the limits that the mapped device has from those devices. Context: process.
    fn io_hints(&self, _limits: &mut Limits<'_>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Tells the core of the devices whose limits the mapped device has. Context: process.
    fn iterate_devices(&self, devices: &IterateDevices<'_>) -> c_int;
}
