// SPDX-License-Identifier: GPL-2.0

//! The life of a user's bio, in travel order.
//!
//! `geometry` turns its sector into a range of the target, `route` decides where it goes.
//!
//! - In `track`, [`Mapping::map`] sends it to the backing device, and when it has ended
//!   [`Mapping::end`] records what it did in the region map (`region`), before the upper layer
//!   hears of its end. Nothing is allocated, split or, but for discards and flushes, locked on the
//!   way (`bypass`).
//! - In `mirror`, what changes something enters the table of what is `in_flight`: see `traffic`. A
//!   write to what is in sync is a `duplicate`, or a `merge` where the clone's blocks are not
//!   those of the write; one that may not go yet `wait`s. So it does in `track` while a `verify`
//!   goes on.
//!
//! What keeps "in sync" true: a write that went to the backing device only makes its regions dirty
//! when it ends; a job claims a region, which is not dirty from then on, and then reads it. So a
//! write that ended before the claim is seen by the read, and one that ends after it leaves its
//! regions dirty, whenever it was submitted. A write to both devices enters the table in the step
//! in which it looks at its regions, and a job claims regions in the step in which it looks at the
//! table: one of the two sees the other, and keeps away.

#![deny(unsafe_code)]

mod attach;
mod bypass;
mod claim;
mod duplicate;
mod flush;
pub(crate) mod geometry;
mod in_flight;
mod merge;
pub(crate) mod phase;
pub(crate) mod region;
mod route;
mod stock;
mod traffic;
mod unflushed;
mod verify;
mod wait;

use crate::abstractions::{
    bio::{MemoryLayout, Op, Status},
    device_mapper::{Device, EndResult, EndingBio, HeldBio, MapResult, MappedBio},
    sync::lock::irq_spinlock::{new_irq_spinlock, IrqSpinLock},
    workqueue::{self, OwnedQueue, RepeatedItem},
};
use bypass::Bypass;
pub(crate) use claim::Claimed;
use geometry::{Geometry, Range, Span};
use kernel::{
    impl_has_delayed_work, new_delayed_work, pr_warn_once,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
    workqueue::{DelayedWork, WorkItem},
};
use phase::Phase;
use region::RegionMap;
pub(crate) use route::Effect;
use route::{route, Intent, Request, Route, Rules, What};
use stock::{Stock, COPY_SECTORS};
pub(crate) use traffic::Mode;
use traffic::{Admitted, Traffic};
pub(crate) use verify::Difference;

/// The copying side, as far as the way of a bio needs it.
pub(crate) trait Copier: Send + Sync {
    /// Something may have to be copied, or flushed. Context: any.
    fn wake(self: Arc<Self>);

    /// What a user's bio asked of the clone has failed with an errno, or what had to be read there
    /// for it. Context: process.
    fn clone_failed(self: Arc<Self>, op: Op, range: Range, errno: c_int);
}

/// The two devices that bios go to.
pub(crate) struct Legs {
    pub(crate) backing: Device,
    pub(crate) clone: Device,
    /// Whether writes to the clone go to the medium at once, as nobody will flush it.
    pub(crate) clone_fua: bool,
    /// Whether the clone can be told to write zeroes, and to discard.
    pub(crate) clone_zeroes: bool,
    pub(crate) clone_discards: bool,
    /// How the clone wants data to lie in memory, where the backing device is content with less.
    clone_layout: Option<MemoryLayout>,
}

impl Legs {
    /// Looks at what the devices can do.
    pub(crate) fn new(backing: Device, clone: Device) -> Self {
        // Where nobody flushes the backing device, nobody flushes the clone.
        let clone_fua = clone.has_write_cache() && !backing.has_write_cache();
        Self {
            clone_fua,
            // No medium is forced to write zeroes at once.
            clone_zeroes: clone.can_write_zeroes() && !clone_fua,
            clone_discards: clone.can_discard(),
            clone_layout: Some(clone.memory_layout()).filter(|layout| {
                let larger = clone.logical_block_sectors() > backing.logical_block_sectors();
                layout.is_stricter_than(backing.memory_layout()) || larger && layout.has_boundary()
            }),
            backing,
            clone,
        }
    }

    /// Whether a write's data may have to be moved to memory of ours.
    fn may_move(&self, settings: Settings) -> bool {
        settings.stable || self.clone_layout.is_some()
    }
}

/// What users' bios do to the clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The mode to begin with.
    pub(crate) mode: Mode,
    /// Whether discards make regions dirty.
    pub(crate) strict_discard: bool,
    /// Whether writes to both devices go through memory of our own, which nobody changes.
    pub(crate) stable: bool,
}

/// What is known of each region of a target, and kept true by all that its bios and jobs do.
///
/// Locking: `traffic` may be taken in any context; under it only the locks of workqueues and of
/// SRCU are taken, and nothing is submitted or ended.
#[pin_data]
pub(crate) struct Mapping {
    pub(crate) geometry: Geometry,
    pub(crate) regions: RegionMap,
    pub(crate) phase: Phase,
    pub(crate) legs: Legs,
    settings: Settings,
    /// Whether writes may have to reach both devices: read without the lock.
    mirrors: Atomic<bool>,
    #[pin]
    bypass: Bypass,
    #[pin]
    traffic: IrqSpinLock<Traffic>,
    #[pin]
    copier: IrqSpinLock<Option<Arc<dyn Copier>>>,
    /// Sends on what waited.
    #[pin]
    work: DelayedWork<Mapping>,
    queue: Arc<OwnedQueue>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Mapping { self.work }
}

impl RepeatedItem for Mapping {
    fn queue(&self) -> &OwnedQueue {
        &self.queue
    }
}

impl WorkItem for Mapping {
    type Pointer = Arc<Self>;

    fn run(mapping: Arc<Self>) {
        mapping.reroute();
    }
}

/// Whether a change left something to do where nobody may be looking for it.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Yes,
    No,
}

impl Mapping {
    /// Allocates the state; all regions are dirty.
    ///
    /// Context: process, may sleep. Errors: `ENOMEM`.
    pub(crate) fn new(
        geometry: Geometry,
        legs: Legs,
        settings: Settings,
        queue: Arc<OwnedQueue>,
    ) -> Result<Arc<Self>> {
        let regions = RegionMap::new(geometry.regions())?;
        let stock = (settings.mode == Mode::Mirror)
            .then(|| Stock::new(&queue, &geometry, legs.may_move(settings)))
            .transpose()?;
        let traffic = Traffic::new(geometry, settings.mode, stock)?;
        Arc::pin_init(
            try_pin_init!(Self {
                geometry,
                regions,
                phase: Phase::new(),
                legs,
                settings,
                mirrors: Atomic::new(false),
                bypass <- Bypass::new(),
                traffic <- new_irq_spinlock!(traffic, "dm_clone_rs::Mapping::traffic"),
                copier <- new_irq_spinlock!(None, "dm_clone_rs::Mapping::copier"),
                work <- new_delayed_work!("dm_clone_rs::Mapping::work"),
                queue,
            }),
            GFP_KERNEL,
        )
    }

    /// Says who copies.
    pub(crate) fn set_copier(&self, copier: Arc<dyn Copier>) {
        *self.copier.lock() = Some(copier);
    }

    /// Ends all activity: no bio of the core's is in flight. Context: process.
    pub(crate) fn stop(self: &Arc<Self>) {
        let copier = self.copier.lock().take();
        drop(copier);
        workqueue::cancel(self);
    }

    fn copier(&self) -> Option<Arc<dyn Copier>> {
        self.copier.lock().clone()
    }

    fn wake_copier(&self) {
        if let Some(copier) = self.copier() {
            copier.wake();
        }
    }

    /// Sends a user's bio on its way, and notes with it what [`end`](Self::end) has to do.
    ///
    /// Context: process.
    #[inline]
    pub(crate) fn map<'a>(self: &Arc<Self>, mut bio: MappedBio<'a, Effect>) -> MapResult<'a> {
        let request = Request::of(&bio);
        let rules = Rules {
            mirrors: self.mirrors.load(Relaxed),
            clone_zeroes: self.legs.clone_zeroes,
            strict_discard: self.settings.strict_discard,
        };
        match route(&self.geometry, rules, &request) {
            Route::Read { sector, effect } => {
                if let Effect::Read(_) = effect {
                    bio.remember();
                }
                *bio.data_mut() = effect;
                bio.remap(&self.legs.backing, sector)
            }
            Route::Write(range) => match self.bypass.enter() {
                Some(section) => {
                    *bio.data_mut() = Effect::Write(range, section);
                    bio.remap(&self.legs.backing, self.geometry.backing_sector(range))
                }
                None => self.admit(bio, self.late_intent(range, rules, &request)),
            },
            Route::Enter(intent) => self.admit(bio, intent),
            Route::Flush => self.map_flush(bio),
            Route::Kill => {
                pr_warn_once!("a bio for {} lies outside its target\n", *self.legs.backing);
                bio.end(Status::IO_ERROR)
            }
        }
    }

    /// What a write is to do that found the way past the table closed: a verify goes on, or the
    /// mode is `mirror` since the look at it. As in `mirror`: where it is not, or not any more when
    /// the write is admitted, it goes to the backing device only.
    fn late_intent(&self, range: Range, rules: Rules, request: &Request) -> Intent {
        let rules = Rules {
            mirrors: true,
            ..rules
        };
        match route(&self.geometry, rules, request) {
            Route::Enter(intent) => intent,
            _ => Intent::new(range, What::BackingOnly),
        }
    }

    /// A bio that changes something is admitted, or has to wait.
    fn admit<'a>(
        self: &Arc<Self>,
        mut bio: MappedBio<'a, Effect>,
        mut intent: Intent,
    ) -> MapResult<'a> {
        let may_split = bio.may_be_split();
        intent.moved = intent.what == What::Write && bio.op() == Op::Write && self.must_move(&bio);
        if intent.what == What::Write {
            if may_split {
                let most = if intent.moved { COPY_SECTORS } else { u64::MAX };
                intent.range = self
                    .geometry
                    .first_of_write(intent.range, most, COPY_SECTORS);
            }
            intent.merged = self.geometry.is_part(intent.range);
            // Zeroes for a part of a block are copied; and what can't be, as who sends it does not
            // keep to the blocks of the backing device.
            if intent.merged && (bio.op() != Op::Write || !self.geometry.has_parts()) {
                intent = Intent::new(intent.range, What::BackingOnly);
            }
        }
        let mut traffic = self.traffic.lock();
        // Where it waits anyway nobody asks.
        let behind = !traffic.is_crowded() && traffic.is_behind(&self.geometry, &intent);
        let crowded = traffic.crowded;
        match traffic.admit(
            &self.geometry,
            &self.regions,
            &mut intent,
            may_split,
            behind,
        ) {
            Admitted::Wait => {
                if bio.is_nowait() {
                    // It does not wait for room.
                    traffic.crowded = crowded;
                    drop(traffic);
                    return bio.end(Status::AGAIN);
                }
                bio.accept(u32::try_from(intent.range.len()).unwrap_or(u32::MAX));
                *bio.data_mut() = Effect::Waiting(intent);
                let (held, result) = bio.hold();
                traffic.held += u64::from(intent.hold.is_some());
                traffic.waiting.push(held);
                result
            }
            Admitted::Go(entered) => {
                drop(traffic);
                // No more than the range that was admitted; the rest comes again.
                bio.accept(u32::try_from(entered.range.len()).unwrap_or(u32::MAX));
                *bio.data_mut() = Effect::Entry(entered.ticket);
                self.send_twin(entered, &mut bio);
                bio.remap(
                    &self.legs.backing,
                    self.geometry.backing_sector(intent.range),
                )
            }
        }
    }

    /// Whether this one's has to, if it is to reach both devices.
    fn must_move(&self, bio: &MappedBio<'_, Effect>) -> bool {
        let unfit = |layout| !bio.fits(layout);
        self.settings.stable || self.legs.clone_layout.is_some_and(unfit)
    }

    /// A user's bio has ended, on both devices where it had to reach both; its owner has not heard
    /// of it yet. Context: any.
    #[inline]
    pub(crate) fn end<'a>(
        self: &Arc<Self>,
        mut bio: EndingBio<'a, Effect>,
    ) -> (EndResult<'a>, Wake) {
        let status = bio.status();
        let effect = *bio.data_mut();
        match effect {
            Effect::None => (bio.done(), Wake::No),
            // Also where it failed: some of it may have been written.
            Effect::Write(range, section) => {
                let wake = self.dirty(self.geometry.touched(range));
                self.bypass.leave(section);
                (bio.done(), wake)
            }
            Effect::Read(_) if status.is_ok() => (bio.done(), Wake::No),
            Effect::Fallback(range, _) if status.is_ok() => {
                self.traffic.lock().fallback += range.len();
                (bio.done(), Wake::No)
            }
            Effect::Read(range) => (self.read_failed(bio, range), Wake::No),
            Effect::Fallback(_, first) => (bio.done_with(first), Wake::No),
            Effect::Entry(ticket) => self.entry_ended(bio, ticket),
            // It was ended while it waited.
            Effect::Waiting(_) => (bio.done(), Wake::No),
        }
    }

    /// Regions differ from here on, or are to be copied again.
    #[inline]
    pub(crate) fn dirty(&self, span: Span) -> Wake {
        self.regions.dirty(span);
        self.step_back()
    }

    #[inline]
    fn step_back(&self) -> Wake {
        if self.phase.step_back() {
            Wake::Yes
        } else {
            Wake::No
        }
    }

    /// Takes over the state of a target that nobody uses any more, before this one is used. Both
    /// begin at the same place and have regions of the same size; their lengths may differ. Whether
    /// the clone is attached is not taken over.
    pub(crate) fn adopt(&self, other: &Self) {
        let (ours, theirs) = (self.geometry.len(), other.geometry.len());
        let partial = ours > theirs && other.geometry.ends_within_a_region();
        self.regions.adopt(&other.regions, partial);
        self.adopt_traffic(other);
        // After that, which may step back: here nothing has gone past the table yet.
        if ours <= theirs {
            self.phase.adopt(&other.phase);
        }
    }
}

/// A held bio of ours.
type Held = HeldBio<Effect>;
