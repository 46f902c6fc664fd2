// SPDX-License-Identifier: GPL-2.0

//! The life of a copy job, in travel order.
//!
//! ```text
//! scheduler -> read -> write -> complete -> the slot takes the next run
//! ```
//!
//! A job is a [`slot::Slot`] (memory and a bio, allocated once) that was given a run of sectors.
//! Slot and run travel together in a [`job::Job`], whose type says how far it is; while its bio is
//! in flight the block layer has the slot, and nobody else can touch it. What a bio's completion
//! does, perhaps in hard interrupt context, is to queue the slot to the engine's own workqueue.

#![deny(unsafe_code)]

mod complete;
mod engine;
mod job;
mod read;
mod scheduler;
mod slot;
mod write;

pub(crate) use engine::{Engine, Pipeline, Progress, Refused};
