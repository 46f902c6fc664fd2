// SPDX-License-Identifier: GPL-2.0

//! Where a user's bio goes, and what of it is recorded: a pure function.

use super::{
    geometry::{Geometry, Range},
    in_flight::Ticket,
};
use crate::abstractions::{
    bio::{Op, Status},
    device_mapper::MappedBio,
    sync::srcu::Section,
};
use kernel::prelude::*;

/// What the route depends on. Sectors are those of the mapped device.
///
/// What else a bio carries, an encryption context above all, is not looked at: it goes along.
pub(super) struct Request {
    op: Op,
    sector: u64,
    sectors: u32,
    /// Nobody but the backing device can answer it.
    particular: bool,
}

impl Request {
    /// Reads it from the bio.
    pub(super) fn of<D>(bio: &MappedBio<'_, D>) -> Self {
        Self {
            op: bio.op(),
            sector: bio.sector(),
            sectors: bio.sectors(),
            particular: bio.is_particular(),
        }
    }
}

/// What has to be done when a bio ends. Kept with the bio while it is in flight, as a bio that has
/// ended does not know its range any more.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    #[default]
    None,
    /// Where it failed, the clone may be asked.
    Read(Range),
    /// The clone is asked; where that fails, too, the backing device's answer counts.
    Fallback(Range, Status),
    /// The regions that the range touches become dirty. It went past the table.
    Write(Range, Section),
    /// It leaves the table.
    Entry(Ticket),
    /// It waits, and is not on its way yet.
    Waiting(Intent),
}

/// A bio that enters the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(super) range: Range,
    pub(super) what: What,
    /// Whether both devices have to get its data from memory of ours.
    pub(super) moved: bool,
    /// Whether it is no whole blocks of the clone, so that these are merged.
    pub(super) merged: bool,
    /// Which hold it waits for, or has waited for: no bio waits for a second one.
    pub(super) hold: Option<u64>,
}

impl Intent {
    /// One that does not wait, nor has waited.
    pub(super) fn new(range: Range, what: What) -> Self {
        Self {
            range,
            what,
            moved: false,
            merged: false,
            hold: None,
        }
    }
}

/// What such a bio does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A write, which reaches the clone, too, where both devices are to stay the same.
    Write,
    /// A write that reaches the backing device only.
    BackingOnly,
    /// A discard: the regions that the range covers whole become skipped, the others that it
    /// touches dirty.
    Discard,
}

/// Where a bio goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To this sector of the backing device.
    Read { sector: u64, effect: Effect },
    /// To the backing device. The regions that it touches become dirty when it ends; until then
    /// nobody has to know of it.
    Write(Range),
    /// Into the table, and on from there.
    Enter(Intent),
    /// A flush: of the backing device, and of the clone where that is due.
    Flush,
    /// Nowhere, it ends with an I/O error: it lies outside the target, which the core never sends.
    Kill,
}

/// What the way of a bio depends on, beside the bio.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Whether writes may have to reach both devices.
    pub(super) mirrors: bool,
    /// Whether the clone can be told to write zeroes.
    pub(super) clone_zeroes: bool,
    /// The feature of that name.
    pub(super) strict_discard: bool,
}

/// Decides where a bio goes.
#[inline]
pub(super) fn route(geometry: &Geometry, rules: Rules, request: &Request) -> Route {
    let Rules {
        mirrors,
        clone_zeroes,
        strict_discard,
    } = rules;
    // It has no range.
    if request.op == Op::Flush {
        return Route::Flush;
    }
    let Some(range) = geometry.mapped_range(request.sector, request.sectors.into()) else {
        return Route::Kill;
    };
    let enter = |what| Route::Enter(Intent::new(range, what));
    let effect = match request.op {
        Op::Read if mirrors && !request.particular => Effect::Read(range),
        Op::Read => Effect::None,
        Op::Discard if !strict_discard => return enter(What::Discard),
        Op::Write if mirrors => return enter(What::Write),
        Op::WriteZeroes if mirrors && clone_zeroes => return enter(What::Write),
        // What is not known may change anything.
        Op::WriteZeroes | Op::Discard | Op::SecureErase | Op::Other if mirrors => {
            return enter(What::BackingOnly)
        }
        Op::Write | Op::WriteZeroes | Op::Discard | Op::SecureErase | Op::Flush | Op::Other => {
            return Route::Write(range)
        }
    };
    Route::Read {
        sector: geometry.backing_sector(range),
        effect,
    }
}

#[kunit_tests(clone_rs_route)]
mod tests {
    use super::*;

    /// A target of 1,000 sectors at 100, on sector 5,000 of its backing device.
    fn geometry() -> Result<Geometry> {
        Geometry::new(100, 1000, 5000, 0, 8).map_err(|_| EINVAL)
    }

    fn to(op: Op, sector: u64, sectors: u32, mirrors: bool, strict: bool) -> Result<Route> {
        let request = Request {
            op,
            sector,
            sectors,
            particular: false,
        };
        Ok(route(&geometry()?, rules(mirrors, strict), &request))
    }

    fn rules(mirrors: bool, strict_discard: bool) -> Rules {
        Rules {
            mirrors,
            clone_zeroes: true,
            strict_discard,
        }
    }

    fn enters(what: What) -> Result<Route> {
        let range = geometry()?.range(992, 8).ok_or(EINVAL)?;
        Ok(Route::Enter(Intent::new(range, what)))
    }

    #[test]
    fn without_a_mirror_every_operation_with_a_range_is_remapped_and_recorded() -> Result {
        let range = geometry()?.range(992, 8).ok_or(EINVAL)?;
        for op in [Op::Write, Op::SecureErase, Op::WriteZeroes, Op::Other] {
            assert_eq!(to(op, 1092, 8, false, false)?, Route::Write(range));
        }
        assert_eq!(
            to(Op::Read, 1092, 8, false, false)?,
            Route::Read {
                sector: 5992,
                effect: Effect::None
            }
        );
        assert_eq!(
            to(Op::Discard, 1092, 8, false, false)?,
            enters(What::Discard)?
        );
        Ok(())
    }

    #[test]
    fn with_a_mirror_all_that_changes_something_enters_the_table() -> Result {
        for (op, what) in [
            (Op::Write, What::Write),
            (Op::WriteZeroes, What::Write),
            (Op::Discard, What::Discard),
            (Op::SecureErase, What::BackingOnly),
            (Op::Other, What::BackingOnly),
        ] {
            assert_eq!(to(op, 1092, 8, true, false)?, enters(what)?);
        }
        Ok(())
    }

    #[test]
    fn a_read_may_be_answered_by_a_mirror() -> Result {
        let geometry = geometry()?;
        let range = geometry.range(992, 8).ok_or(EINVAL)?;
        for (particular, effect) in [(false, Effect::Read(range)), (true, Effect::None)] {
            let request = Request {
                op: Op::Read,
                sector: 1092,
                sectors: 8,
                particular,
            };
            let sector = 5992;
            assert_eq!(
                route(&geometry, rules(true, false), &request),
                Route::Read { sector, effect }
            );
        }
        Ok(())
    }

    #[test]
    fn a_strict_discard_is_a_write() -> Result {
        let range = geometry()?.range(992, 8).ok_or(EINVAL)?;
        assert_eq!(to(Op::Discard, 1092, 8, false, true)?, Route::Write(range));
        assert_eq!(
            to(Op::Discard, 1092, 8, true, true)?,
            enters(What::BackingOnly)?
        );
        Ok(())
    }

    #[test]
    fn a_flush_has_no_range() -> Result {
        assert_eq!(to(Op::Flush, 0, 0, false, false)?, Route::Flush);
        assert_eq!(to(Op::Flush, 0, 0, true, false)?, Route::Flush);
        Ok(())
    }

    #[test]
    fn what_lies_outside_is_killed() -> Result {
        for (sector, sectors) in [(99, 1), (1093, 8), (1100, 1), (u64::MAX, 1), (0, u32::MAX)] {
            for mirrors in [false, true] {
                assert_eq!(to(Op::Write, sector, sectors, mirrors, false)?, Route::Kill);
            }
        }
        Ok(())
    }

    /// No device of a virtual machine encrypts inline, so this stands for a test with a device: an
    /// encrypted write takes the route of a plain one, as all that a route depends on is in a
    /// `Request`, and `MappedBio::remap` leaves the context where it is. That the core lets such
    /// bios through to us is told by the target's features, see `target`; a mirror of a device that
    /// encrypts is refused.
    #[test]
    fn inline_encryption_does_not_change_the_route() -> Result {
        let Request {
            op,
            sector,
            sectors,
            particular: _,
        } = Request {
            op: Op::Write,
            sector: 108,
            sectors: 8,
            particular: false,
        };
        let range = geometry()?.range(8, 8).ok_or(EINVAL)?;
        assert_eq!(to(op, sector, sectors, false, false)?, Route::Write(range));
        Ok(())
    }
}
