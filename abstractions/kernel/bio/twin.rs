// SPDX-License-Identifier: GPL-2.0

//! A bio of our own that carries the data of a user's bio to another device.

use super::{BioSet, Op, OwnBio};
use crate::abstractions::{
    bindings,
    device_mapper::{BioShare, Device},
};
use core::ptr::NonNull;
use kernel::{prelude::*, sync::Arc};

/// What of a user's bio's flags goes along. Not integrity and encryption, whose data is the other
/// device's; not what says that the bio must stay whole or must not wait, as the other device's
/// limits and queue are none of the user's business; nor hints that are meant for the other one.
const KEPT: u32 = bindings::REQ_OP_MASK
    | bindings::REQ_SYNC
    | bindings::REQ_META
    | bindings::REQ_PRIO
    | bindings::REQ_IDLE
    | bindings::REQ_FUA
    | bindings::REQ_BACKGROUND
    | bindings::REQ_NOUNMAP;

/// What goes along of a user's bio: the operation with its flags, and the priority.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    pub(super) opf: u32,
    pub(super) priority: u16,
}

impl Manner {
    /// That of a bio that was not sent to its own device yet, where it may change.
    pub(crate) fn of(share: &BioShare) -> Self {
        let bio = share.bio().as_ptr();
        // SAFETY: The bio is valid while somebody has a share.
        let (opf, priority) = unsafe { ((*bio).bi_opf, (*bio).bi_ioprio) };
        Self {
            opf: opf & KEPT,
            priority,
        }
    }

    /// Whether it is a write of data.
    pub(crate) fn has_data(self) -> bool {
        Op::from_opf(self.opf) == Op::Write
    }
}

/// A bio without memory of its own, allocated once and used again and again.
///
/// # Invariants
///
/// `bio` comes from `_set`, and is not in flight. Where `prepared` is set, it has its operation,
/// `device`, and the data of `share`.
pub(crate) struct TwinBio {
    bio: NonNull<kernel::bindings::bio>,
    /// Keeps the data while the bio is in flight.
    share: Option<BioShare>,
    /// Kept open while the bio is in flight.
    device: Option<Device>,
    /// Whether the bio may be submitted, once.
    prepared: bool,
    /// Must outlive `bio`.
    _set: Arc<BioSet>,
}

// SAFETY: A bio that is not in flight belongs to no thread.
unsafe impl Send for TwinBio {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for TwinBio {}

impl TwinBio {
    /// Allocates a bio. Context: process, may sleep. Errors: `ENOMEM`.
    pub(crate) fn new(set: Arc<BioSet>) -> Result<Self> {
        // INVARIANT: Just allocated.
        Ok(Self {
            bio: set.alloc(0)?,
            share: None,
            device: None,
            prepared: false,
            _set: set,
        })
    }

    /// Makes the bio do what the shared one does (`manner`: write, write zeroes, discard), to
    /// `sector` of `device`; of its sectors `skipped` are left out at the beginning, and `sectors`
    /// of the others done. It is forced to the medium with `fua`, or where the shared one is.
    /// Errors: `EINVAL` where there are not so many sectors.
    ///
    /// Context: any.
    pub(crate) fn prepare(
        &mut self,
        share: BioShare,
        manner: Manner,
        device: &Device,
        sector: u64,
        (skipped, sectors): (u64, u64),
        fua: bool,
    ) -> Result {
        self.prepared = false;
        let (theirs, iter) = (share.bio().as_ptr(), share.iter());
        // Also where the bio can't be prepared: it comes back in `end_io`.
        self.share = Some(share);
        let bytes = |sectors: u64| {
            sectors
                .checked_mul(super::SECTOR_SIZE as u64)
                .and_then(|bytes| u32::try_from(bytes).ok())
                .ok_or(EINVAL)
        };
        let (skipped, size) = (bytes(skipped)?, bytes(sectors)?);
        if size == 0
            || skipped
                .checked_add(size)
                .is_none_or(|end| end > iter.bi_size)
        {
            return Err(EINVAL);
        }
        let Manner { opf, priority } = manner;
        let fua = if fua && manner.has_data() {
            bindings::REQ_FUA
        } else {
            0
        };

        let bio = self.bio.as_ptr();
        // SAFETY: The bio is owned and not in flight, and the device is open.
        unsafe { kernel::bindings::bio_reset(bio, device.as_raw(), opf | fua) };
        // SAFETY: As above. The shared bio has its vectors until it ends.
        unsafe {
            (*bio).bi_io_vec = (*theirs).bi_io_vec;
            (*bio).bi_iter = iter;
            (*bio).bi_ioprio = priority;
            (*bio).bi_flags |= 1 << bindings::BIO_CLONED;
        }
        if skipped > 0 {
            // SAFETY: The bio has more bytes than that.
            unsafe { kernel::bindings::__bio_advance(bio, skipped) };
        }
        // SAFETY: The bio is owned and not in flight; it has at least that many bytes.
        unsafe {
            (*bio).bi_iter.bi_size = size;
            (*bio).bi_iter.bi_sector = sector;
        }
        self.device = Some(device.clone());
        // INVARIANT: All that a bio needs is there.
        self.prepared = true;
        Ok(())
    }

    /// What the bio was prepared to do.
    pub(crate) fn op(&self) -> Op {
        // SAFETY: The bio is owned and not in flight.
        Op::from_opf(unsafe { (*self.bio.as_ptr()).bi_opf })
    }

    /// Gives back the share that the bio was prepared with.
    pub(crate) fn take_share(&mut self) -> Option<BioShare> {
        self.prepared = false;
        self.share.take()
    }
}

// SAFETY: A prepared bio has the data of its share, which keeps it while the bio is in flight.
unsafe impl OwnBio for TwinBio {
    fn take_prepared(&mut self) -> Option<NonNull<kernel::bindings::bio>> {
        core::mem::take(&mut self.prepared).then_some(self.bio)
    }
}

impl Drop for TwinBio {
    fn drop(&mut self) {
        // SAFETY: The bio is owned, and not in flight; it has no vectors of its own.
        unsafe { (*self.bio.as_ptr()).bi_io_vec = core::ptr::null_mut() };
        // SAFETY: As above; the set is still there, as `self` has it.
        unsafe { kernel::bindings::bio_put(self.bio.as_ptr()) }
    }
}
