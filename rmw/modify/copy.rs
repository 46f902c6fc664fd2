// SPDX-License-Identifier: GPL-2.0

//! The clone gets what the backing device has.

use crate::rmw::job::Action;

/// What becomes of a block about which no other filling has something to say.
pub(super) const ACTION: Action = Action::Write;
