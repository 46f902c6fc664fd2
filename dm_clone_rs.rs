// SPDX-License-Identifier: GPL-2.0

//! A device-mapper target that copies a live device to another one.
//!
//! `target` speaks device-mapper, `mapping` is the life of a user's bio, `rmw` the life of a copy
//! job, each in travel order; `abstractions` has all the unsafe code.

use kernel::prelude::*;

mod abstractions;
mod mapping;
mod rmw;
mod target;

module! {
    type: DmCloneRs,
    name: "dm_clone_rs",
    authors: ["The clone-rs developers"],
    description: "Device-mapper target that copies a live device",
    license: "GPL",
}

#[pin_data]
struct DmCloneRs {
    #[pin]
    target: abstractions::device_mapper::Registration<target::CloneTarget>,
}

impl kernel::InPlaceModule for DmCloneRs {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            target <- abstractions::device_mapper::Registration::new(module),
        })
    }
}
