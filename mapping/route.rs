// SPDX-License-Identifier: GPL-2.0

//! Where a user's bio goes, and what of it is recorded: a pure function.

use super::geometry::{Geometry, Range};
use crate::abstractions::{bio::Op, device_mapper::MappedBio};
use kernel::prelude::*;

/// What the route depends on. Sectors are those of the mapped device.
///
/// What else a bio carries, an encryption context above all, is not looked at: it goes along.
pub(super) struct Request {
    op: Op,
    sector: u64,
    sectors: u32,
}

impl Request {
    /// Reads it from the bio.
    pub(super) fn of(bio: &MappedBio<'_>) -> Self {
        Self {
            op: bio.op(),
            sector: bio.sector(),
            sectors: bio.sectors(),
        }
    }
}

/// What becomes of the regions of a bio when it ends. Kept with the bio while it is in flight, as a
/// bio that has ended does not know its range any more.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    #[default]
    None,
    /// The regions that the range touches become dirty.
    Write(Range),
    /// The regions that the range covers whole become skipped, the others that it touches dirty.
    Discard(Range),
}

/// Where a bio goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To this sector of the backing device.
    Remap { sector: u64, effect: Effect },
    /// Nowhere, it ends with an I/O error: it lies outside the target, which the core never sends.
    Kill,
}

/// Decides where a bio goes; `strict_discard` is the feature of that name.
#[inline]
pub(super) fn route(geometry: &Geometry, strict_discard: bool, request: &Request) -> Route {
    let effect: fn(Range) -> Effect = match request.op {
        // It has no range. dm-linear's go to sector 0, too.
        Op::Flush => {
            return Route::Remap {
                sector: 0,
                effect: Effect::None,
            }
        }
        Op::Read => |_| Effect::None,
        Op::Discard if !strict_discard => Effect::Discard,
        // What is not known may change anything.
        Op::Write | Op::WriteZeroes | Op::Discard | Op::SecureErase | Op::Other => Effect::Write,
    };
    match geometry.mapped_range(request.sector, request.sectors.into()) {
        Some(range) => Route::Remap {
            sector: geometry.backing_sector(range),
            effect: effect(range),
        },
        None => Route::Kill,
    }
}

#[kunit_tests(clone_rs_route)]
mod tests {
    use super::*;

    /// A target of 1,000 sectors at 100, on sector 5,000 of its backing device.
    fn geometry() -> Result<Geometry> {
        Geometry::new(100, 1000, 5000, 0, 8).map_err(|_| EINVAL)
    }

    fn to(op: Op, sector: u64, sectors: u32) -> Result<Route> {
        Ok(route(
            &geometry()?,
            false,
            &Request {
                op,
                sector,
                sectors,
            },
        ))
    }

    #[test]
    fn every_operation_with_a_range_is_remapped_and_recorded() -> Result {
        let range = geometry()?.range(992, 8).ok_or(EINVAL)?;
        for (op, effect) in [
            (Op::Read, Effect::None),
            (Op::Write, Effect::Write(range)),
            (Op::Discard, Effect::Discard(range)),
            (Op::SecureErase, Effect::Write(range)),
            (Op::WriteZeroes, Effect::Write(range)),
            (Op::Other, Effect::Write(range)),
        ] {
            let sector = 5992;
            assert_eq!(to(op, 1092, 8)?, Route::Remap { sector, effect });
        }
        Ok(())
    }

    #[test]
    fn a_strict_discard_is_a_write() -> Result {
        let geometry = geometry()?;
        let request = Request {
            op: Op::Discard,
            sector: 100,
            sectors: 1000,
        };
        assert_eq!(
            route(&geometry, true, &request),
            Route::Remap {
                sector: 5000,
                effect: Effect::Write(geometry.all())
            }
        );
        Ok(())
    }

    #[test]
    fn a_flush_has_no_range() -> Result {
        let effect = Effect::None;
        assert_eq!(to(Op::Flush, 0, 0)?, Route::Remap { sector: 0, effect });
        Ok(())
    }

    #[test]
    fn what_lies_outside_is_killed() -> Result {
        for (sector, sectors) in [(99, 1), (1093, 8), (1100, 1), (u64::MAX, 1), (0, u32::MAX)] {
            assert_eq!(to(Op::Write, sector, sectors)?, Route::Kill);
        }
        Ok(())
    }

    /// No device of a virtual machine encrypts inline, so this stands for a test with a device: an
    /// encrypted write takes the route of a plain one, as all that a route depends on is in a
    /// `Request`, and `MappedBio::remap` leaves the context where it is. That the core lets such
    /// bios through to us is told by the target's features, see `target`.
    #[test]
    fn inline_encryption_does_not_change_the_route() -> Result {
        let Request {
            op,
            sector,
            sectors,
        } = Request {
            op: Op::Write,
            sector: 108,
            sectors: 8,
        };
        let effect = Effect::Write(geometry()?.range(8, 8).ok_or(EINVAL)?);
        assert_eq!(
            to(op, sector, sectors)?,
            Route::Remap {
                sector: 5008,
                effect
            }
        );
        Ok(())
    }
}
