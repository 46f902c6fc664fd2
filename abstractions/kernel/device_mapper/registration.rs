// SPDX-License-Identifier: GPL-2.0

//! Making a target known.

use super::{operations::OperationsVTable, CtrError, Target};
use crate::abstractions::{bindings, mm};
use core::ptr::NonNull;
use kernel::{
    container_of,
    error::to_result,
    new_mutex,
    prelude::*,
    sync::Mutex,
    types::Opaque, //
};

/// A target, as it is known to others of its type.
struct Instance<T>(NonNull<T>);

// SAFETY: It stands for a `&T`.
unsafe impl<T: Sync> Send for Instance<T> {}

/// The targets of a type, in whatever table.
///
/// # Invariants
///
/// What the pointers point to is valid while the lock is held, or `dtr` has not begun.
#[pin_data]
pub(crate) struct Instances<T: Target> {
    #[pin]
    list: Mutex<KVec<Instance<T>>>,
}

impl<T: Target> Instances<T> {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- new_mutex!(KVec::new(), "dm_clone_rs::Instances::list"),
        })
    }

    /// Returns the first answer of one of the targets. None of them goes away meanwhile.
    ///
    /// Context: process.
    pub(crate) fn find<R>(&self, mut answer: impl FnMut(&T) -> Option<R>) -> Option<R> {
        // SAFETY: Valid by the type's invariants.
        (self.list.lock().iter()).find_map(|instance| answer(unsafe { instance.0.as_ref() }))
    }
}

/// A registered target (`dm_register_target`); dropping it unregisters.
///
/// # Invariants
///
/// The `target_type` is registered.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Target> {
    #[pin]
    instances: Instances<T>,
    #[pin]
    target_type: Opaque<bindings::target_type>,
}

// SAFETY: Only device-mapper uses the `target_type`, under its own lock.
unsafe impl<T: Target> Send for Registration<T> {}
// SAFETY: As above.
unsafe impl<T: Target> Sync for Registration<T> {}

impl<T: Target> Registration<T> {
    /// Registers the target; `module` is held while a table uses it.
    ///
    /// Context: process. Errors: `EEXIST` where another target has the name.
    pub(crate) fn new(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Before the first table can come.
            instances <- Instances::new(),
            // INVARIANT: Registered, or there is no `Registration`.
            target_type <- Opaque::try_ffi_init(|slot: *mut bindings::target_type| {
                let target_type = OperationsVTable::<T>::build(module);
                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(target_type) };
                // SAFETY: The type is complete, and stays where it is until it is unregistered.
                to_result(unsafe { bindings::dm_register_target(slot) })
            }),
        })
    }

    /// Returns the registration that a `target_type` is part of.
    ///
    /// # Safety
    ///
    /// It must be one of this type, and the registration live for `'a`.
    pub(super) unsafe fn of<'a>(target_type: *mut bindings::target_type) -> &'a Self {
        let target_type = target_type.cast::<Opaque<bindings::target_type>>();
        // SAFETY: By this function's rules.
        unsafe { &*container_of!(target_type, Self, target_type) }
    }

    /// The targets of this type.
    pub(super) fn instances(&self) -> &Instances<T> {
        &self.instances
    }

    /// Makes a target known to the others, if it may be [beside](Target::check_beside) them: of two
    /// one is asked about the other. Errors: those of that, `ENOMEM`.
    pub(super) fn add(&self, target: &T) -> Result<(), CtrError> {
        let instance = Instance(target.into());
        let mut list = self.instances.list.lock();
        for other in list.iter() {
            // SAFETY: Valid by the invariants of `Instances`.
            target.check_beside(unsafe { other.0.as_ref() })?;
        }
        // Others wait for the lock while their device is suspended, so its I/O is not waited for.
        mm::without_io(|| list.push(instance, GFP_KERNEL))?;
        Ok(())
    }

    /// From here on the others do not know the target.
    pub(super) fn remove(&self, target: &T) {
        let target = NonNull::from(target);
        self.instances
            .list
            .lock()
            .retain(|instance| instance.0 != target);
    }
}

#[pinned_drop]
impl<T: Target> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered by the type's invariants. No table uses it: each holds the module.
        unsafe { bindings::dm_unregister_target(self.target_type.get()) }
    }
}
