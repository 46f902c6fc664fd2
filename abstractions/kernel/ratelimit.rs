// SPDX-License-Identifier: GPL-2.0

//! Bounds how often something is logged.
//!
//! C header: [`include/linux/ratelimit.h`](srctree/include/linux/ratelimit.h)

use crate::abstractions::bindings;
use kernel::{prelude::*, types::Opaque};

/// Lets ten events through every five seconds (`struct ratelimit_state`, the kernel's defaults).
///
/// Locking: its own; any number of CPUs may ask at once.
#[pin_data]
pub(crate) struct RateLimit {
    /// For the line that tells how many were held back.
    name: &'static CStr,
    #[pin]
    state: Opaque<kernel::bindings::ratelimit_state>,
}

// SAFETY: `___ratelimit` locks the state itself.
unsafe impl Send for RateLimit {}
// SAFETY: As above.
unsafe impl Sync for RateLimit {}

impl RateLimit {
    /// Creates one that has let nothing through yet.
    pub(crate) fn new(name: &'static CStr) -> impl PinInit<Self> {
        pin_init!(Self {
            name,
            state <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes of a `ratelimit_state`.
                unsafe { bindings::ratelimit_default_init(slot) }
            }),
        })
    }

    /// Returns whether this event may be logged (`__ratelimit`). Context: any.
    pub(crate) fn allows(&self) -> bool {
        // SAFETY: The state was initialised in `new`; the name is only printed.
        unsafe { kernel::bindings::___ratelimit(self.state.get(), self.name.as_char_ptr()) != 0 }
    }
}
