// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers for what the kernel crate lacks, and the only unsafe code of the module.
//!
//! Paths mirror the kernel's (`rust/kernel`, `rust/bindings`, `rust/helpers`), so that a file can
//! go upstream almost as it is. Nothing here knows what the module does.

mod bindings;
mod kernel;

pub(crate) use self::kernel::*;
