// SPDX-License-Identifier: GPL-2.0

//! What would be part of the `kernel` crate.

pub(crate) mod bio;
pub(crate) mod block;
pub(crate) mod device_mapper;
pub(crate) mod mm;
pub(crate) mod ratelimit;
pub(crate) mod sync {
    //! Synchronisation primitives.
    pub(crate) mod lock {
        //! Locks.
        pub(crate) mod irq_spinlock;
    }
    pub(crate) mod srcu;
}
pub(crate) mod workqueue;
