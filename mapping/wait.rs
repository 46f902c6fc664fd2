// SPDX-License-Identifier: GPL-2.0

//! Bios that wait, and those that are sent once more. A worker of the mapping's own sends them.

use super::{
    geometry::{Geometry, Range},
    route::{Effect, Intent},
    traffic::{Admitted, Entered, Traffic},
    Held, Mapping,
};
use crate::abstractions::{
    bio::Status,
    device_mapper::{EndResult, EndingBio, HeldList},
    workqueue,
};
use core::ops::ControlFlow;
use kernel::sync::Arc;

/// How many bios that wait are looked at, with interrupts off, before one is found that may go; not
/// counted are those that wait for a job. The first one of the others may as soon as what it waits
/// for has ended, so all come to be among them.
const LOOKED_AT: usize = 256;

/// What the worker does next.
enum Next {
    /// It may go now.
    Admitted(Held, Entered),
    /// Once more to the backing device.
    Again(Held, Range),
    /// To the clone, which is to answer a read.
    Fallback(Held, Range),
    /// It ends.
    End(Held, Status),
}

impl Mapping {
    /// Has the worker look at what waits. Context: any.
    pub(super) fn kick(self: &Arc<Self>) {
        workqueue::run_now(self);
    }

    /// Sends on all that may go. Context: the mapping's worker.
    pub(super) fn reroute(self: &Arc<Self>) {
        loop {
            let next = self.traffic.lock().next(self);
            match next {
                Some(Next::Admitted(mut held, entered)) => {
                    *held.data_mut() = Effect::Entry(entered.ticket);
                    let sector = self.geometry.backing_sector(entered.range);
                    self.send_twin(entered, &mut held);
                    held.submit(&self.legs.backing, sector);
                }
                Some(Next::Again(held, range)) => {
                    held.submit(&self.legs.backing, self.geometry.backing_sector(range));
                }
                Some(Next::Fallback(held, range)) => {
                    held.submit(&self.legs.clone, self.geometry.clone_sector(range));
                }
                Some(Next::End(held, status)) => held.end(status),
                None => return,
            }
        }
    }

    /// A read has failed on the backing device: the clone answers, where it is in sync.
    ///
    /// Not where the failure says nothing about the medium, or the clone can't be asked for so
    /// little. A write to these regions that ends meanwhile was submitted before this read has
    /// ended: either answer is right.
    pub(super) fn read_failed<'a>(
        self: &Arc<Self>,
        bio: EndingBio<'a, Effect>,
        range: Range,
    ) -> EndResult<'a> {
        let status = bio.status();
        let about_request = [Status::AGAIN, Status::NOT_SUPPORTED, Status::INVALID];
        if about_request.contains(&status)
            || !self.regions.are_in_sync(self.geometry.touched(range))
            || self.geometry.is_part(range)
            || !self.is_attached()
        {
            return bio.done();
        }
        match bio.take_back() {
            Ok((mut held, result)) => {
                *held.data_mut() = Effect::Fallback(range, status);
                let mut traffic = self.traffic.lock();
                traffic.fallbacks.push(held);
                // While nobody can take it out: its end may be the target's.
                self.kick();
                result
            }
            Err(bio) => bio.done(),
        }
    }
}

impl Traffic {
    fn next(&mut self, mapping: &Mapping) -> Option<Next> {
        if let Some(mut held) = self.again.pop() {
            let entry = match *held.data_mut() {
                Effect::Entry(ticket) => self.in_flight.get_mut(ticket).copied(),
                _ => None,
            };
            return Some(match entry {
                Some(entry) => Next::Again(held, entry.range),
                None => Next::End(held, Status::IO_ERROR),
            });
        }
        if let Some(mut held) = self.fallbacks.pop() {
            return Some(match *held.data_mut() {
                Effect::Fallback(range, _) if self.attached => Next::Fallback(held, range),
                Effect::Fallback(_, first) => Next::End(held, first),
                _ => Next::End(held, Status::IO_ERROR),
            });
        }
        self.next_waiting(mapping)
    }

    /// The first bio in order of arrival that may go, and overtakes none that overlaps it. Once
    /// there is no room for one, those after it are asked only whether they wait for a hold.
    fn next_waiting(&mut self, mapping: &Mapping) -> Option<Next> {
        let mut waiting = core::mem::replace(&mut self.waiting, HeldList::new());
        let (mut entered, mut newly_held, mut asked) = (None, 0, 0);
        let crowded = core::mem::replace(&mut self.crowded, false);
        let held = waiting.take_first(|effect, before| {
            let Effect::Waiting(mut intent) = *effect else {
                return ControlFlow::Continue(());
            };
            let admitted = if self.must_wait_for_hold(&mut intent) {
                Admitted::Wait
            } else if asked == LOOKED_AT {
                return ControlFlow::Break(false);
            } else if self.crowded {
                asked += 1;
                Admitted::Wait
            } else {
                asked += 1;
                let behind = before.any(|other| overlaps(&mapping.geometry, other, &intent));
                self.admit(
                    &mapping.geometry,
                    &mapping.regions,
                    &mut intent,
                    false,
                    behind,
                )
            };
            match admitted {
                Admitted::Wait => {
                    let waits = Effect::Waiting(intent);
                    newly_held += u64::from(core::mem::replace(effect, waits) != waits);
                    ControlFlow::Continue(())
                }
                Admitted::Go(go) => {
                    entered = Some(go);
                    ControlFlow::Break(true)
                }
            }
        });
        self.waiting = waiting;
        self.held += newly_held;
        // Where none may go, there was room for all that were asked; else they are asked again.
        self.crowded |= crowded && held.is_some();
        Some(Next::Admitted(held?, entered?))
    }

    /// Whether something waits that a bio must not overtake.
    pub(super) fn is_behind(&self, geometry: &Geometry, intent: &Intent) -> bool {
        (self.waiting).any(|other| overlaps(geometry, other, intent))
    }
}

/// Whether a bio that waits overlaps another one, or has something in the same block of the clone.
fn overlaps(geometry: &Geometry, effect: &Effect, intent: &Intent) -> bool {
    let range = geometry.rounded_out(intent.range);
    matches!(effect, Effect::Waiting(other) if other.range.overlaps(range))
}
