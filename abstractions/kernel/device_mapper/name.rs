// SPDX-License-Identifier: GPL-2.0

//! The name of a mapped device.

use kernel::{fmt, prelude::*};

/// The number of a mapped device as major:minor, as device-mapper logs it.
///
/// A copy, as the device's own may go before a target has logged its last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceName {
    /// As in `struct dm_dev`, without an end where it is full.
    bytes: [u8; Self::SIZE],
}

impl DeviceName {
    const SIZE: usize = 16;

    /// Copies a name, cut off where it is longer than any is.
    pub(super) fn new(name: &CStr) -> Self {
        let mut bytes = [0; Self::SIZE];
        for (to, from) in bytes.iter_mut().zip(name.to_bytes()) {
            *to = *from;
        }
        Self { bytes }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes
            .iter()
            .take_while(|byte| **byte != 0)
            .try_for_each(|byte| fmt::Write::write_char(f, char::from(*byte)))
    }
}
