// SPDX-License-Identifier: GPL-2.0

//! The life of a copy job, in travel order.
//!
//! ```text
//! scheduler -> read -> modify -> write -> complete -> the slot takes the next run
//! ```
//!
//! A job is a [`slot::Slot`] (memory and a bio, allocated once) that was given a run of regions.
//! Slot and run travel together in a [`job::Job`], whose type says how far it is; while its bio is
//! in flight the block layer has the slot, and nobody else can touch it. What a bio's completion
//! does, perhaps in hard interrupt context, is to queue the slot to the engine's own workqueue.
//!
//! A verify uses the same slots, see `verify`.
//!
//! `engine` is what the jobs of a target share; `control` is what an administrator says to it, and
//! `suspend` what device-mapper does.

#![deny(unsafe_code)]

mod complete;
mod control;
mod engine;
mod errors;
mod flush;
mod job;
mod modify;
mod narrow;
mod pace;
mod plan;
mod pool;
mod read;
mod scheduler;
mod slot;
mod status;
mod suspend;
mod verify;
mod write;

pub(crate) use control::Refused;
pub(crate) use engine::{Engine, OnCloneError, OnReadError, Policy};
pub(crate) use pool::Pipeline;
pub(crate) use status::{Counters, Health, State};
