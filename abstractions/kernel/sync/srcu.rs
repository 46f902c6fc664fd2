// SPDX-License-Identifier: GPL-2.0

//! Sections that others wait for the end of, which may take long and end in an interrupt. To begin
//! and to end one costs next to nothing; to wait takes longer for that.
//!
//! C header: [`include/linux/srcu.h`](srctree/include/linux/srcu.h)

use crate::abstractions::bindings;
use kernel::{
    error::to_result,
    ffi::{c_int, c_ulong},
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    types::Opaque,
};

/// A domain of such sections (`struct srcu_struct`).
///
/// Nothing that is memory-safe depends on it: who ends a section twice, or not at all, has waiters
/// go on too early, or never. None may be left when the domain is dropped, which then is leaked.
///
/// Dropped in process context, where it may sleep.
///
/// # Invariants
///
/// The structure is initialised.
#[pin_data(PinnedDrop)]
pub(crate) struct Srcu {
    #[pin]
    domain: Opaque<kernel::bindings::srcu_struct>,
    /// Whether a grace period was begun that nobody may have waited for.
    begun: Atomic<bool>,
}

// SAFETY: An `srcu_struct` does its own locking.
unsafe impl Send for Srcu {}
// SAFETY: As above.
unsafe impl Sync for Srcu {}

/// A section that goes on.
///
/// # Invariants
///
/// It holds the number of one of the two counters that every domain has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section(c_int);

/// A time after which all sections have ended that had begun before it. Those that begin later see
/// what was done before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GracePeriod(c_ulong);

impl Srcu {
    /// Creates a domain without a section (`init_srcu_struct_fast_updown`).
    ///
    /// Context: process, may sleep. Errors: `ENOMEM`.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // INVARIANT: `init_srcu_struct_fast_updown` succeeded, or there is no domain.
            domain <- Opaque::try_ffi_init(|slot: *mut kernel::bindings::srcu_struct| {
                // SAFETY: `slot` is valid for writes and does not move after this.
                to_result(unsafe { bindings::init_srcu_struct_fast_updown(slot) })
            }),
            begun: Atomic::new(false),
        })
    }

    /// Begins a section (`srcu_down_read_fast`). Context: any but NMI.
    #[inline]
    pub(crate) fn down_read(&self) -> Section {
        // INVARIANT: It is what the function returns.
        // SAFETY: The domain is initialised by the type's invariants.
        Section(unsafe { bindings::srcu_down_read_fast(self.domain.get()) })
    }

    /// Ends a section, anywhere (`srcu_up_read_fast`). Context: any but NMI.
    #[inline]
    pub(crate) fn up_read(&self, section: Section) {
        // SAFETY: The domain is initialised by the type's invariants, and has such a counter by
        // those of the section: one that `down_read` has not returned now would only spoil it.
        unsafe { bindings::srcu_up_read_fast(self.domain.get(), section.0) }
    }

    /// Begins to wait for all sections that have begun (`start_poll_synchronize_srcu`): a full
    /// barrier. Context: any but NMI.
    pub(crate) fn start_poll(&self) -> GracePeriod {
        self.begun.store(true, Relaxed);
        // SAFETY: The domain is initialised by the type's invariants.
        GracePeriod(unsafe { kernel::bindings::start_poll_synchronize_srcu(self.domain.get()) })
    }

    /// Whether they have ended (`poll_state_synchronize_srcu`): then a full barrier. Context: any.
    pub(crate) fn poll(&self, period: GracePeriod) -> bool {
        // SAFETY: The domain is initialised by the type's invariants.
        unsafe { kernel::bindings::poll_state_synchronize_srcu(self.domain.get(), period.0) }
    }
}

#[pinned_drop]
impl PinnedDrop for Srcu {
    fn drop(self: Pin<&mut Self>) {
        if self.begun.load(Relaxed) {
            // SAFETY: The domain is initialised by the type's invariants; this is process context.
            unsafe { kernel::bindings::synchronize_srcu(self.domain.get()) };
        }
        // SAFETY: As above, and nobody else has it. No callback was ever queued, and no grace
        // period is under way.
        unsafe { kernel::bindings::cleanup_srcu_struct(self.domain.get()) }
    }
}

#[kunit_tests(clone_rs_srcu)]
mod tests {
    use super::*;
    use kernel::time::{delay::fsleep, Delta};

    fn passes(domain: &Srcu, period: GracePeriod) -> bool {
        (0..2000).any(|_| {
            fsleep(Delta::from_millis(1));
            domain.poll(period)
        })
    }

    #[test]
    fn sections_are_waited_for() -> Result {
        let domain = KBox::pin_init(Srcu::new(), GFP_KERNEL)?;
        let section = domain.down_read();
        let period = domain.start_poll();
        fsleep(Delta::from_millis(30));
        assert!(!domain.poll(period));
        domain.up_read(section);
        assert!(passes(&domain, period));
        // One that nobody waits for goes on when the domain is dropped.
        let _ = domain.start_poll();
        Ok(())
    }
}
