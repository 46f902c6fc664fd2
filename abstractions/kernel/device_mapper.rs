// SPDX-License-Identifier: GPL-2.0

//! Device-mapper targets.
//!
//! A target is a type that implements [`Target`]; a [`Registration`] of it in the module's data
//! makes it known for as long as the module is there:
//!
//! ```ignore
//! #[pin_data]
//! struct MyModule {
//!     #[pin]
//!     target: device_mapper::Registration<MyTarget>,
//! }
//!
//! impl kernel::InPlaceModule for MyModule {
//!     fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
//!         try_pin_init!(Self {
//!             target <- device_mapper::Registration::new(module),
//!         })
//!     }
//! }
//! ```
//!
//! C header: [`include/linux/device-mapper.h`](srctree/include/linux/device-mapper.h)

mod ctr;
mod device;
mod held_bio;
mod mapped_bio;
mod mapped_device;
mod name;
mod operations;
mod per_bio;
mod registration;
mod target;
mod text;

pub(crate) use ctr::{Args, BioCounts, Constructor, CtrError};
pub(crate) use device::Device;
pub(crate) use held_bio::{EndResult, EndingBio, HeldBio, HeldList};
pub(crate) use mapped_bio::{MapResult, MappedBio};
pub(crate) use mapped_device::MappedDevice;
pub(crate) use name::DeviceName;
pub(crate) use per_bio::{BioShare, ShareList};
pub(crate) use registration::{Instances, Registration};
pub(crate) use target::{
    Features,
    IoctlAccess,
    IterateDevices,
    Limits,
    Reply,
    StatusType,
    Suspend,
    Target, //
};
pub(crate) use text::Text;
