// SPDX-License-Identifier: GPL-2.0

//! A spinlock that may be taken in interrupt context.
//!
//! The kernel crate's `SpinLock` leaves interrupts on: a completion handler that took it on the
//! CPU where its owner runs would spin for ever.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use crate::abstractions::bindings;
use kernel::{
    ffi::{c_char, c_ulong},
    sync::lock::{Backend, Lock},
};

/// A spinlock that disables interrupts while it is held (`spin_lock_irqsave`).
///
/// Context: any. Nothing may sleep while a guard lives. Guards of several locks are dropped in
/// reverse order, as each puts back the interrupt state that it found.
pub(crate) type IrqSpinLock<T> = Lock<T, IrqSpinLockBackend>;

/// Creates an [`IrqSpinLock`] initialiser with a lock class of its own.
macro_rules! new_irq_spinlock {
    ($inner:expr, $name:literal) => {
        $crate::abstractions::sync::lock::irq_spinlock::IrqSpinLock::new(
            $inner,
            ::kernel::optional_name!($name),
            ::kernel::static_lock_class!(),
        )
    };
}
pub(crate) use new_irq_spinlock;

/// The [`Backend`] of an [`IrqSpinLock`]; the guard's state is the saved interrupt flags.
pub(crate) struct IrqSpinLockBackend;

// SAFETY: `spinlock_t` ensures mutual exclusion; `relock` is the default one, which calls `lock`.
unsafe impl Backend for IrqSpinLockBackend {
    type State = kernel::bindings::spinlock_t;
    type GuardState = c_ulong;

    unsafe fn init(
        ptr: *mut Self::State,
        name: *const c_char,
        key: *mut kernel::bindings::lock_class_key,
    ) {
        // SAFETY: `ptr` is valid for writes, `name` and `key` for ever (by this function's rules).
        unsafe { kernel::bindings::__spin_lock_init(ptr, name, key) }
    }

    #[inline]
    unsafe fn lock(ptr: *mut Self::State) -> c_ulong {
        // SAFETY: `ptr` points to an initialised lock (by this function's rules).
        unsafe { bindings::spin_lock_irqsave(ptr) }
    }

    #[inline]
    unsafe fn try_lock(ptr: *mut Self::State) -> Option<c_ulong> {
        let mut flags = 0;
        // SAFETY: `ptr` points to an initialised lock, `flags` is a local variable.
        unsafe { bindings::spin_trylock_irqsave(ptr, &mut flags) }.then_some(flags)
    }

    #[inline]
    unsafe fn unlock(ptr: *mut Self::State, flags: &c_ulong) {
        // SAFETY: The caller owns the lock, and `flags` comes from the call that took it.
        unsafe { bindings::spin_unlock_irqrestore(ptr, *flags) }
    }

    #[inline]
    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: `ptr` points to an initialised lock (by this function's rules).
        unsafe { kernel::bindings::spin_assert_is_held(ptr) }
    }
}
