// SPDX-License-Identifier: GPL-2.0

//! The life of a user's bio, in travel order.
//!
//! `geometry` turns its sector into a range of the target, `route` decides where it goes, and
//! [`map`] sends it there. Nothing is allocated, split or locked on the way.

#![deny(unsafe_code)]

pub(crate) mod geometry;
mod route;

use crate::abstractions::device_mapper::{Device, MapResult, MappedBio};
use geometry::Geometry;
use kernel::pr_warn_once;
use route::{route, Request, Route};

/// Sends a user's bio on its way. Context: process.
pub(crate) fn map<'a>(geometry: &Geometry, backing: &Device, bio: MappedBio<'a>) -> MapResult<'a> {
    match route(geometry, &Request::of(&bio)) {
        Route::Remap { sector } => bio.remap(backing, sector),
        Route::Kill => {
            pr_warn_once!("a bio for {} lies outside its target\n", **backing);
            bio.kill()
        }
    }
}
