// SPDX-License-Identifier: GPL-2.0

//! Making a target known.

use super::{operations::OperationsVTable, Target};
use crate::abstractions::bindings;
use core::marker::PhantomData;
use kernel::{error::to_result, prelude::*, types::Opaque};

/// A registered target (`dm_register_target`); dropping it unregisters.
///
/// # Invariants
///
/// The `target_type` is registered.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Target> {
    #[pin]
    target_type: Opaque<bindings::target_type>,
    _target: PhantomData<T>,
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
            // INVARIANT: Registered, or there is no `Registration`.
            target_type <- Opaque::try_ffi_init(|slot: *mut bindings::target_type| {
                let target_type = OperationsVTable::<T>::build(module);
                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(target_type) };
                // SAFETY: The type is complete, and stays where it is until it is unregistered.
                to_result(unsafe { bindings::dm_register_target(slot) })
            }),
            _target: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: Target> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered by the type's invariants. No table uses it: each holds the module.
        unsafe { bindings::dm_unregister_target(self.target_type.get()) }
    }
}
