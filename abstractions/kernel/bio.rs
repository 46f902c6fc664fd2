// SPDX-License-Identifier: GPL-2.0

//! Block I/O requests.
//!
//! A bio's owner is told by its type. One that device-mapper shows to a target is a
//! [`MappedBio`](super::device_mapper::MappedBio). One of our own is a [`BufferedBio`], with memory
//! of its own, or a [`TwinBio`], with that of a user's bio: it is filled in, given away by
//! [`submit`], and comes back to its owner's [`BioOwner::end_io`], once.
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)

mod buffered;
mod layout;
mod memory;
mod set;
mod submit;
mod twin;

pub(crate) use buffered::{BufferedBio, Priority};
pub(crate) use layout::MemoryLayout;
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) use memory::test_memory;
pub(crate) use memory::Memory;
pub(crate) use set::BioSet;
pub(crate) use submit::{submit, BioOwner, OwnBio};
pub(crate) use twin::{Manner, TwinBio};

use crate::abstractions::bindings;
use kernel::prelude::*;

/// Bytes of a sector, the unit of all offsets and lengths (`SECTOR_SIZE`).
pub(crate) const SECTOR_SIZE: usize = 512;

/// What a bio asks for (`enum req_op`), as far as a target without zones sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Read sectors.
    Read,
    /// Write sectors.
    Write,
    /// Flush the write cache; device-mapper sends it as an empty write with `REQ_PREFLUSH`.
    Flush,
    /// Sectors are not needed any more.
    Discard,
    /// Sectors are to be destroyed.
    SecureErase,
    /// Sectors become zeroes.
    WriteZeroes,
    /// Anything else, passed on as it is.
    Other,
}

impl Op {
    /// Reads the operation of a `bi_opf`.
    pub(crate) fn from_opf(opf: u32) -> Self {
        use kernel::bindings as b;

        match opf & bindings::REQ_OP_MASK {
            b::req_op_REQ_OP_READ => Self::Read,
            b::req_op_REQ_OP_WRITE => Self::Write,
            b::req_op_REQ_OP_FLUSH => Self::Flush,
            b::req_op_REQ_OP_DISCARD => Self::Discard,
            b::req_op_REQ_OP_SECURE_ERASE => Self::SecureErase,
            b::req_op_REQ_OP_WRITE_ZEROES => Self::WriteZeroes,
            _ => Self::Other,
        }
    }

    /// How the log calls it, as `blk_op_str` does.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::SecureErase => "secure erase",
            Self::WriteZeroes => "write zeroes",
            Self::Other => "another operation",
        }
    }
}

/// How a bio ended (`blk_status_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(kernel::bindings::blk_status_t);

impl Status {
    /// `BLK_STS_IOERR`.
    pub(crate) const IO_ERROR: Self = Self(bindings::BLK_STS_IOERR);
    /// `BLK_STS_AGAIN`: it would have had to wait.
    pub(crate) const AGAIN: Self = Self(bindings::BLK_STS_AGAIN);
    /// `BLK_STS_NOTSUPP`.
    pub(crate) const NOT_SUPPORTED: Self = Self(bindings::BLK_STS_NOTSUPP);
    /// `BLK_STS_TARGET`: the device does not know the command, or what it asks for.
    pub(crate) const TARGET: Self = Self(bindings::BLK_STS_TARGET);
    /// `BLK_STS_INVAL`: the device can't take it in this shape.
    pub(crate) const INVALID: Self = Self(bindings::BLK_STS_INVAL);
    /// `BLK_STS_TRANSPORT`: there is no way to the device.
    const TRANSPORT: Self = Self(bindings::BLK_STS_TRANSPORT);
    /// `BLK_STS_OFFLINE`: there is no device any more, or somebody has switched it off.
    const OFFLINE: Self = Self(bindings::BLK_STS_OFFLINE);

    /// The value for C.
    pub(super) fn raw(self) -> kernel::bindings::blk_status_t {
        self.0
    }

    /// Wraps a value of C.
    pub(super) fn new(status: kernel::bindings::blk_status_t) -> Self {
        Self(status)
    }

    /// Whether it succeeded.
    #[inline]
    pub(crate) fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// Whether a failure may be that of a place on the medium: not where the device can't be
    /// reached at all.
    pub(crate) fn is_about_medium(self) -> bool {
        ![Self::TRANSPORT, Self::OFFLINE].contains(&self)
    }

    /// The errno for it, 0 where it succeeded (`blk_status_to_errno`).
    pub(crate) fn to_errno(self) -> c_int {
        // SAFETY: The function looks up a constant table, and checks its argument.
        unsafe { kernel::bindings::blk_status_to_errno(self.0) }
    }
}
