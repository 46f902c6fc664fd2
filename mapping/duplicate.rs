// SPDX-License-Identifier: GPL-2.0

//! The second write, to the clone, of a user's write to what is in sync; discards go there
//! likewise.
//!
//! A [`Twin`] is a bio of our own with the data of the user's, of which it has a share: so the user
//! hears of the end when both have ended, with the status of the backing device's. One that fails
//! makes the regions dirty before that.
//!
//! A write that may not be split is sent to the clone in pieces, one after the other: the runs that
//! are in sync. The others are dirty, or made so here. No job claims any of them meanwhile, as the
//! whole range is in the table.

use super::{
    geometry::Range,
    in_flight::{Kind, Ticket},
    region,
    route::Effect,
    stock::Leg,
    traffic::{Entered, Traffic},
    Held, Mapping, Wake,
};
use crate::abstractions::{
    bio::{self, BioOwner, BioSet, BufferedBio, Manner, Op, Status, TwinBio},
    device_mapper::{BioShare, EndResult, EndingBio, MappedBio},
    workqueue::{enqueue, OwnedQueue, QueuedItem},
};
use kernel::{
    impl_has_work, new_work, pr_warn_once,
    prelude::*,
    sync::Arc,
    workqueue::{Work, WorkItem},
};

/// A bio for the clone, and a work item: it is owned by the stock, the block layer or the
/// workqueue.
#[pin_data]
pub(super) struct Twin {
    #[pin]
    work: Work<Twin>,
    queue: Arc<OwnedQueue>,
    bio: TwinBio,
    /// What it was sent out for; `None` in the stock.
    flight: Option<Flight>,
}

/// What a twin takes along.
struct Flight {
    mapping: Arc<Mapping>,
    ticket: Ticket,
    kind: Kind,
    manner: Manner,
    /// The user's range, and the part of it that is on its way.
    range: Range,
    piece: Range,
    status: Option<Status>,
}

impl_has_work! {
    impl HasWork<Self> for Twin { self.work }
}

impl Twin {
    /// Allocates one. Context: process, may sleep. Errors: `ENOMEM`.
    pub(super) fn new(set: &Arc<BioSet>, queue: &Arc<OwnedQueue>) -> Result<Pin<KBox<Self>>> {
        let bio = TwinBio::new(set.clone())?;
        let queue = queue.clone();
        KBox::pin_init(
            pin_init!(Self {
                work <- new_work!("dm_clone_rs::Twin::work"),
                queue,
                bio,
                flight: None,
            }),
            GFP_KERNEL,
        )
    }
}

impl BioOwner for Twin {
    type Bio = TwinBio;

    fn bio(self: Pin<&mut Self>) -> &mut TwinBio {
        self.project().bio
    }

    /// Context: any.
    fn end_io(mut twin: Pin<KBox<Self>>, status: Status) {
        let this = twin.as_mut().project();
        match this.flight {
            // The common case needs no worker.
            Some(flight) if status.is_ok() && flight.piece.end() == flight.range.end() => {
                flight.status = Some(status);
                go_on(twin);
            }
            Some(flight) => {
                flight.status = Some(status);
                enqueue(twin);
            }
            None => enqueue(twin),
        }
    }
}

impl QueuedItem for Twin {
    fn queue(&self) -> &OwnedQueue {
        &self.queue
    }
}

impl WorkItem for Twin {
    type Pointer = Pin<KBox<Self>>;

    fn run(twin: Pin<KBox<Self>>) {
        go_on(twin);
    }
}

/// A piece has ended. Context: process where it failed or is not the last one, else any.
fn go_on(mut twin: Pin<KBox<Twin>>) {
    let this = twin.as_mut().project();
    let op = this.bio.op();
    let (Some(flight), Some(share)) = (this.flight.take(), this.bio.take_share()) else {
        pr_warn_once!("a bio for the clone came back that was not sent\n");
        return;
    };
    let status = flight.status.unwrap_or(Status::IO_ERROR);
    let mut written = None;
    if status.is_ok() {
        written = (flight.kind == Kind::Duplicate).then_some(flight.piece);
        // What is detached meanwhile leaves all of it dirty.
        let next = (flight.mapping).next_piece(flight.kind, flight.range, flight.piece.end());
        if let Some(piece) = next.filter(|_| flight.mapping.is_attached()) {
            if let Some(range) = written {
                flight.mapping.mark_unflushed(range);
            }
            return send(twin, Flight { piece, ..flight }, share);
        }
    } else {
        let Flight {
            ticket,
            kind,
            piece,
            ..
        } = flight;
        (flight.mapping).leg_failed((ticket, kind), op, piece, status);
    }
    flight.mapping.put_home(Leg::Twin(twin), written);
    // The last of its bios may end with the share, and the target be gone after that: the flight's
    // reference, which must not be the last one in an interrupt, goes before.
    drop(flight);
    drop(share);
}

/// Sends a twin out. Context: process.
fn send(mut twin: Pin<KBox<Twin>>, flight: Flight, share: BioShare) {
    let mapping = &flight.mapping;
    let (range, piece) = (flight.range, flight.piece);
    let prepared = twin.as_mut().project().bio.prepare(
        share,
        flight.manner,
        &mapping.legs.clone,
        mapping.geometry.clone_sector(piece),
        (piece.start() - range.start(), piece.len()),
        mapping.legs.clone_fua,
    );
    if prepared.is_err() {
        pr_warn_once!("a bio for the clone lacks data\n");
    }
    *twin.as_mut().project().flight = Some(flight);
    // One that was not prepared ends with an error.
    bio::submit(twin);
}

/// A bio that was just admitted: in `map`, or after it has waited.
pub(super) trait Admittee {
    fn move_data(&mut self, memory: KBox<BufferedBio>) -> Result;
    fn share(&mut self) -> BioShare;
}

impl Admittee for MappedBio<'_, Effect> {
    fn move_data(&mut self, memory: KBox<BufferedBio>) -> Result {
        self.move_data(memory)
    }

    fn share(&mut self) -> BioShare {
        self.share()
    }
}

impl Admittee for Held {
    fn move_data(&mut self, memory: KBox<BufferedBio>) -> Result {
        self.move_data(memory)
    }

    fn share(&mut self) -> BioShare {
        self.share()
    }
}

impl Traffic {
    /// Whether a bio may be sent to the backing device once more.
    fn may_go_again(&mut self, ticket: Ticket) -> bool {
        self.in_flight
            .get_mut(ticket)
            .is_some_and(|entry| !core::mem::replace(&mut entry.again, true))
    }
}

impl Mapping {
    /// A bio was admitted: its twin goes to the clone, if it has one, with a share of it. Where its
    /// memory does not do, both write from ours. Context: process.
    pub(super) fn send_twin(self: &Arc<Self>, mut entered: Entered, bio: &mut impl Admittee) {
        if let Some(copy) = entered.copy.take() {
            if bio.move_data(copy).is_err() {
                pr_warn_once!("a write's data could not be copied\n");
                self.missed(entered.ticket);
            }
        }
        let share = entered.leg.is_some().then(|| bio.share());
        if entered.kind == Kind::Discard {
            // Before it is sent: a write that ends later wins.
            if let Some(span) = self.geometry.covered(entered.range) {
                self.regions.skip(span);
            }
        }
        let (Some(leg), Some(share)) = (entered.leg, share) else {
            return;
        };
        let twin = match leg {
            Leg::Twin(twin) => twin,
            Leg::Merge(merge) => {
                return merge.begin(self.clone(), entered.ticket, entered.range, share);
            }
        };
        let mut flight = Flight {
            mapping: self.clone(),
            ticket: entered.ticket,
            kind: entered.kind,
            manner: Manner::of(&share),
            range: entered.range,
            piece: entered.range,
            status: None,
        };
        match self.next_piece(entered.kind, entered.range, entered.range.start()) {
            Some(piece) => {
                flight.piece = piece;
                send(twin, flight, share);
            }
            None => self.put_home(Leg::Twin(twin), None),
        }
    }

    /// The next part of a range, from a sector on, that is to reach the clone. What comes before it
    /// stays dirty, or is dirty from here on: jobs have it.
    pub(super) fn next_piece(&self, kind: Kind, range: Range, from: u64) -> Option<Range> {
        let end = range.end();
        let mut from = from;
        loop {
            let rest = self.geometry.range(from, end.checked_sub(from)?)?;
            if kind == Kind::Discard {
                // No part of a block: what is not discarded is dirty, or nobody needs it.
                let whole = self.geometry.rounded_in(rest);
                return whole.filter(|_| self.legs.clone_discards);
            }
            let span = self.geometry.touched(rest);
            let (kind, until) = self.regions.kind(span);
            let border = self.geometry.first_sector(until).min(end);
            match kind {
                region::Kind::InSync => return self.geometry.range(from, border - from),
                region::Kind::Behind => {
                    if let Some(behind) = self.geometry.span(span.first(), until) {
                        // It wakes nobody: those regions were not in sync before.
                        let _ = self.dirty(behind);
                    }
                    from = border;
                }
            }
        }
    }

    /// What was to reach the clone did not. Context: process.
    pub(super) fn leg_failed(
        &self,
        (ticket, kind): (Ticket, Kind),
        op: Op,
        range: Range,
        status: Status,
    ) {
        // What the clone can't do in that shape is no error of it: it is copied instead. A discard
        // leaves nothing to be copied. SCSI disks say so only when they are asked to.
        let unfit = [Status::NOT_SUPPORTED, Status::INVALID].contains(&status)
            || ![Op::Read, Op::Write].contains(&op) && status == Status::TARGET;
        if kind == Kind::Duplicate {
            self.missed(ticket);
        }
        if let Some(copier) = self.copier().filter(|_| !unfit) {
            copier.clone_failed(op, range, status.to_errno());
        }
    }

    /// Something of a bio does not reach the clone that should.
    fn missed(&self, ticket: Ticket) {
        if let Some(entry) = self.traffic.lock().in_flight.get_mut(ticket) {
            entry.missed = true;
        }
    }

    /// It goes back to the stock, and has `written` what may be in the clone's cache.
    pub(super) fn put_home(&self, leg: Leg, written: Option<Range>) {
        let mut traffic = self.traffic.lock();
        if let Some(range) = written {
            traffic.unflushed.mark(range);
        }
        traffic.stock.give_back_leg(leg);
    }

    /// A bio that was in the table has ended on all devices. Context: any.
    pub(super) fn entry_ended<'a>(
        self: &Arc<Self>,
        bio: EndingBio<'a, Effect>,
        ticket: Ticket,
    ) -> (EndResult<'a>, Wake) {
        let status = bio.status();
        let mut bio = bio;
        let mut traffic = self.traffic.lock();
        if status == Status::AGAIN && traffic.may_go_again(ticket) {
            // Its submitter could not wait for the backing device; we can, and the clone may have
            // it already.
            match bio.take_back() {
                Ok((held, result)) => {
                    traffic.again.push(held);
                    // While nobody can take it out: its end may be the target's.
                    self.kick();
                    return (result, Wake::No);
                }
                Err(same) => bio = same,
            }
        }
        let mut wake = Wake::No;
        if core::mem::take(&mut traffic.watched) {
            wake = Wake::Yes;
        }
        if let Some(entry) = traffic.in_flight.get_mut(ticket).copied() {
            let range = entry.range;
            let missed = entry.missed || entry.losses != traffic.losses;
            // What is dirty is so before the entry leaves, and before the user hears of the end.
            let left = match entry.kind {
                Kind::Duplicate if !missed && status.is_ok() => Wake::No,
                Kind::Plain | Kind::Duplicate => self.dirty(self.geometry.touched(range)),
                Kind::Discard => {
                    self.end_discard(range, !status.is_ok());
                    // What it covers may have been the last that was dirty.
                    Wake::Yes
                }
            };
            if left == Wake::Yes {
                wake = Wake::Yes;
            }
            traffic.in_flight.leave(ticket);
        }
        if let Some(copy) = bio.take_moved() {
            traffic.stock.give_back_copy(copy);
        }
        if !traffic.waiting.is_empty() {
            self.kick();
        }
        (bio.done(), wake)
    }

    /// Makes dirty what the discard may have changed in part.
    fn end_discard(&self, range: Range, failed: bool) {
        let touched = self.geometry.touched(range);
        let covered = self.geometry.covered(range).filter(|_| !failed);
        let (head, tail) = match covered {
            Some(covered) => (
                self.geometry.span(touched.first(), covered.first()),
                self.geometry.span(covered.end(), touched.end()),
            ),
            None => (Some(touched), None),
        };
        for span in [head, tail].into_iter().flatten() {
            // The discard's end wakes anyway.
            let _ = self.dirty(span);
        }
    }
}
