// SPDX-License-Identifier: GPL-2.0

//! The callbacks of a [`Target`] in C's shape.

use super::{
    per_bio::{self, Head, PerBio},
    registration::Registration,
    Args, Constructor, CtrError, EndingBio, IoctlAccess, IterateDevices, Limits, MappedBio,
    MappedDevice, Reply, StatusType, Suspend, Target, Text,
};
use crate::abstractions::{bindings, mm};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    error::from_result,
    prelude::*,
    sync::Arc, //
};

/// What `ti->private` points to.
struct Private<T> {
    target: Pin<KBox<T>>,
    mapped_device: Arc<MappedDevice>,
    devices: KVec<NonNull<bindings::dm_dev>>,
}

/// The callbacks of a [`Target`], as device-mapper wants them.
pub(super) struct OperationsVTable<T: Target>(PhantomData<T>);

impl<T: Target> OperationsVTable<T> {
    /// Returns the target's private data.
    ///
    /// # Safety
    ///
    /// `ti` must be a target of this type for which `ctr` succeeded, and `dtr` not be called
    /// during `'a`.
    #[inline]
    unsafe fn private<'a>(ti: *mut bindings::dm_target) -> &'a Private<T> {
        // SAFETY: `ctr` put a box there, and only `dtr` takes it out.
        unsafe { &*(*ti).private.cast::<Private<T>>() }
    }

    /// Puts devices that [`Constructor::get_device`] got.
    ///
    /// # Safety
    ///
    /// They must have been got for `ti`, and be put once.
    unsafe fn put_devices(ti: *mut bindings::dm_target, devices: KVec<NonNull<bindings::dm_dev>>) {
        for dev in devices {
            // SAFETY: By this function's rules.
            unsafe { bindings::dm_put_device(ti, dev.as_ptr()) };
        }
    }

    /// Returns the registration of this target type.
    ///
    /// # Safety
    ///
    /// `ti` must be a target of this type.
    unsafe fn registration<'a>(ti: *mut bindings::dm_target) -> &'a Registration<T> {
        // SAFETY: By this function's rules. The module is held, and with it the registration, while
        // it has targets.
        unsafe { Registration::of((*ti).type_) }
    }

    /// # Safety
    ///
    /// Called by device-mapper with a target under construction and `argc` strings.
    unsafe extern "C" fn ctr_callback(
        ti: *mut bindings::dm_target,
        argc: c_uint,
        argv: *mut *mut c_char,
    ) -> c_int {
        // SAFETY: The strings are the core's, and stay during the call.
        let args = unsafe { Args::new(argc, argv) };
        // SAFETY: By this function's rules.
        let Err(refused) = (unsafe { Self::construct(ti, args) }) else {
            return 0;
        };
        // SAFETY: Nobody else uses the target during its construction; the core only prints the
        // text.
        unsafe { (*ti).error = refused.text.as_char_ptr().cast_mut().cast() };
        refused.errno.to_errno()
    }

    /// # Safety
    ///
    /// `ti` must be a target under construction.
    unsafe fn construct(ti: *mut bindings::dm_target, args: Args<'_>) -> Result<(), CtrError> {
        // SAFETY: The table is valid until `dtr` has returned, or this call has failed.
        let mapped_device = unsafe { MappedDevice::new((*ti).table) }?;
        let mut devices = KVec::new();
        let made = T::ctr(
            &mut Constructor::new(
                // SAFETY: Nobody else uses the target during its construction.
                unsafe { &mut *ti },
                &mapped_device,
                &mut devices,
            ),
            args,
        );
        let refused = match made {
            Ok(target) => match KBox::new_uninit(GFP_KERNEL) {
                // SAFETY: By this function's rules.
                Ok(private) => match unsafe { Self::registration(ti) }.add(&target) {
                    Ok(()) => {
                        let private = KBox::into_raw(private.write(Private {
                            target,
                            mapped_device,
                            devices,
                        }));
                        // SAFETY: Nobody else uses the target during its construction; `dtr` takes
                        // the box out.
                        unsafe {
                            (*ti).private = private.cast();
                            (*ti).per_io_data_size = per_bio::size::<T::BioData>() as c_uint;
                            (*ti).set_accounts_remapped_io(true);
                        }
                        return Ok(());
                    }
                    Err(error) => Self::undo(target, error),
                },
                Err(error) => Self::undo(target, error),
            },
            Err(refused) => refused,
        };
        mapped_device.revoke();
        // SAFETY: Got for `ti` during `T::ctr`, and put nowhere else.
        unsafe { Self::put_devices(ti, devices) };
        Err(refused)
    }

    /// Takes back what `T::ctr` has made.
    fn undo(target: Pin<KBox<T>>, error: impl Into<CtrError>) -> CtrError {
        target.dtr();
        error.into()
    }

    /// # Safety
    ///
    /// Called by device-mapper, once, after the last of the other callbacks.
    unsafe extern "C" fn dtr_callback(ti: *mut bindings::dm_target) {
        // SAFETY: `ctr` put the box there.
        let private = unsafe { KBox::from_raw((*ti).private.cast::<Private<T>>()) };
        let Private {
            target,
            mapped_device,
            devices,
        } = KBox::into_inner(private);
        // SAFETY: By this function's rules.
        unsafe { Self::registration(ti) }.remove(&target);
        target.dtr();
        mapped_device.revoke();
        // The target's own references go first, so that putting the devices closes them.
        drop(target);
        // SAFETY: Got for `ti` in `ctr`, and put nowhere else.
        unsafe { Self::put_devices(ti, devices) };
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`, with a clone that is the target's.
    unsafe extern "C" fn map_callback(
        ti: *mut bindings::dm_target,
        bio: *mut kernel::bindings::bio,
    ) -> c_int {
        // SAFETY: `map` runs between `ctr` and `dtr`.
        let private = unsafe { Self::private(ti) };
        // SAFETY: By this function's rules.
        let own = unsafe { per_bio::per_bio::<T::BioData>(bio) };
        // SAFETY: The core has made room for it, and uses it for nothing else.
        unsafe {
            own.write(PerBio {
                head: Head::new(),
                data: T::BioData::default(),
            })
        };
        // SAFETY: device-mapper never passes NULL.
        let bio = unsafe { NonNull::new_unchecked(bio) };
        // SAFETY: The bio is this call's, and taken once.
        let bio = unsafe { MappedBio::new(bio, own) };
        private.target.map(bio).code() as c_int
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`, with a bio that `map` has remapped or held.
    unsafe extern "C" fn end_io_callback(
        ti: *mut bindings::dm_target,
        bio: *mut kernel::bindings::bio,
        error: *mut kernel::bindings::blk_status_t,
    ) -> c_int {
        // SAFETY: By this function's rules.
        let own = unsafe { per_bio::per_bio::<T::BioData>(bio) };
        // SAFETY: `map` has written it.
        if !unsafe { &(*own.as_ptr()).head }.is_last_end() {
            return bindings::DM_ENDIO_INCOMPLETE as c_int;
        }
        // SAFETY: By this function's rules: it is a variable of the caller's.
        let status = unsafe { &mut *error };
        // SAFETY: device-mapper never passes NULL.
        let bio = unsafe { NonNull::new_unchecked(bio) };
        // SAFETY: The bio has ended, and the last share of it is gone.
        let bio = unsafe { EndingBio::new(bio, own, status) };
        // SAFETY: By this function's rules.
        unsafe { Self::private(ti) }.target.end_io(bio).code() as c_int
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`.
    unsafe extern "C" fn presuspend_callback(ti: *mut bindings::dm_target) {
        // SAFETY: By this function's rules.
        let how = if unsafe { bindings::dm_noflush_suspending(ti) } != 0 {
            Suspend::NoFlush
        } else {
            Suspend::Flush
        };
        // SAFETY: By this function's rules.
        unsafe { Self::private(ti) }.target.presuspend(how);
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`.
    unsafe extern "C" fn presuspend_undo_callback(ti: *mut bindings::dm_target) {
        // SAFETY: By this function's rules.
        unsafe { Self::private(ti) }.target.presuspend_undo();
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`.
    unsafe extern "C" fn postsuspend_callback(ti: *mut bindings::dm_target) {
        // SAFETY: By this function's rules.
        unsafe { Self::private(ti) }.target.postsuspend();
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`.
    unsafe extern "C" fn preresume_callback(ti: *mut bindings::dm_target) -> c_int {
        from_result(|| {
            // SAFETY: By this function's rules.
            let others = unsafe { Self::registration(ti) }.instances();
            // SAFETY: By this function's rules.
            let target = &unsafe { Self::private(ti) }.target;
            mm::without_io(|| target.preresume(others))?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`.
    unsafe extern "C" fn resume_callback(ti: *mut bindings::dm_target) {
        // SAFETY: By this function's rules.
        unsafe { Self::private(ti) }.target.resume();
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`; `result` has `maxlen` bytes.
    unsafe extern "C" fn status_callback(
        ti: *mut bindings::dm_target,
        kind: bindings::status_type_t,
        _flags: c_uint,
        result: *mut c_char,
        maxlen: c_uint,
    ) {
        let kind = match kind {
            bindings::status_type_t_STATUSTYPE_INFO => StatusType::Info,
            bindings::status_type_t_STATUSTYPE_TABLE => StatusType::Table,
            _ => StatusType::Ima,
        };
        // SAFETY: By this function's rules; `c_char` is a byte.
        let buffer = unsafe { core::slice::from_raw_parts_mut(result.cast(), maxlen as usize) };
        // SAFETY: By this function's rules.
        unsafe { Self::private(ti) }
            .target
            .status(kind, &mut Text::new(buffer));
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`, with `argc` strings; `result` has `maxlen`
    /// bytes.
    unsafe extern "C" fn message_callback(
        ti: *mut bindings::dm_target,
        argc: c_uint,
        argv: *mut *mut c_char,
        result: *mut c_char,
        maxlen: c_uint,
    ) -> c_int {
        // SAFETY: The strings are the core's, and stay during the call.
        let args = unsafe { Args::new(argc, argv) };
        // SAFETY: By this function's rules.
        let target = &unsafe { Self::private(ti) }.target;
        from_result(|| match mm::without_io(|| target.message(args))? {
            Reply::Done => Ok(0),
            Reply::Answer(answer) => {
                // SAFETY: By this function's rules; `c_char` is a byte. The strings, which may be
                // in the same place, are not used any more.
                let buffer =
                    unsafe { core::slice::from_raw_parts_mut(result.cast(), maxlen as usize) };
                answer(target, &mut Text::new(buffer));
                Ok(1)
            }
        })
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`; `bdev` is valid for writes.
    unsafe extern "C" fn prepare_ioctl_callback(
        ti: *mut bindings::dm_target,
        bdev: *mut *mut kernel::bindings::block_device,
        _cmd: c_uint,
        _arg: c_ulong,
        _forward: *mut bool,
    ) -> c_int {
        // SAFETY: By this function's rules.
        let (device, access) = unsafe { Self::private(ti) }.target.prepare_ioctl();
        // SAFETY: By this function's rules.
        unsafe { *bdev = device.as_raw() };
        match access {
            IoctlAccess::Whole => 0,
            IoctlAccess::Part => 1,
        }
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`.
    unsafe extern "C" fn iterate_devices_callback(
        ti: *mut bindings::dm_target,
        callout: bindings::iterate_devices_callout_fn,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: By this function's rules.
        let private = unsafe { Self::private(ti) };
        private.target.iterate_devices(&IterateDevices {
            ti,
            callout,
            data,
            devices: &private.devices,
        })
    }

    /// # Safety
    ///
    /// Called by device-mapper between `ctr` and `dtr`; `limits` is valid for writes.
    unsafe extern "C" fn io_hints_callback(
        ti: *mut bindings::dm_target,
        limits: *mut kernel::bindings::queue_limits,
    ) {
        // SAFETY: By this function's rules: they are the caller's.
        let limits = unsafe { &mut *limits };
        // SAFETY: By this function's rules.
        unsafe { Self::private(ti) }
            .target
            .io_hints(&mut Limits(limits));
    }

    /// Makes the `target_type` to register.
    pub(super) fn build(module: &'static ThisModule) -> bindings::target_type {
        bindings::target_type {
            features: T::FEATURES.0,
            name: T::NAME.as_char_ptr(),
            module: module.as_ptr(),
            version: T::VERSION,
            ctr: Some(Self::ctr_callback),
            dtr: Some(Self::dtr_callback),
            map: Some(Self::map_callback),
            end_io: optional!(T::HAS_END_IO, Self::end_io_callback),
            presuspend: optional!(T::HAS_PRESUSPEND, Self::presuspend_callback),
            presuspend_undo: optional!(T::HAS_PRESUSPEND_UNDO, Self::presuspend_undo_callback),
            postsuspend: optional!(T::HAS_POSTSUSPEND, Self::postsuspend_callback),
            preresume: optional!(T::HAS_PRERESUME, Self::preresume_callback),
            resume: optional!(T::HAS_RESUME, Self::resume_callback),
            status: Some(Self::status_callback),
            message: optional!(T::HAS_MESSAGE, Self::message_callback),
            prepare_ioctl: optional!(T::HAS_PREPARE_IOCTL, Self::prepare_ioctl_callback),
            io_hints: optional!(T::HAS_IO_HINTS, Self::io_hints_callback),
            iterate_devices: Some(Self::iterate_devices_callback),
            ..pin_init::zeroed()
        }
    }
}

/// A callback where the target has it.
macro_rules! optional {
    ($has:expr, $callback:expr) => {
        if $has {
            Some($callback)
        } else {
            None
        }
    };
}
use optional;
