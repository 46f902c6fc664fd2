// SPDX-License-Identifier: GPL-2.0

//! Opening both devices, and refusing those that can't be cloned.

use super::args::Table;
use crate::{
    abstractions::{
        block::BlockDevice,
        device_mapper::{Constructor, CtrError, Device, DeviceName},
    },
    mapping::{geometry::Geometry, Mode},
};
use kernel::prelude::*;

/// Opens and checks the backing device and the clone.
///
/// A disk and its own partition are refused by the core: who has one can't have the other.
pub(super) fn open(
    ti: &mut Constructor<'_>,
    table: &Table<'_>,
    geometry: &Geometry,
) -> Result<(Device, Device), CtrError> {
    let backing = get(ti, table.backing)?;
    let clone = get(ti, table.clone)?;
    let check = Check {
        name: ti.device_name(),
        geometry,
        batch: table.options.pipeline.batch.into(),
        mirrors: table.options.settings.mode == Mode::Mirror,
    };
    check.distinct(&backing, &clone)?;
    check.backing(&backing)?;
    check.clone(&clone)?;
    if check.mirrors {
        check_mirror(&backing).map_err(|text| {
            pr_err!("{}: mode mirror: {}: {}\n", check.name, *clone, text);
            CtrError::invalid(text)
        })?;
    }
    prepare_cache(ti, &clone)?;
    Ok((backing, clone))
}

fn get(ti: &mut Constructor<'_>, path: &CStr) -> Result<Device, CtrError> {
    ti.get_device(path).map_err(|errno| {
        pr_err!("{}: cannot open {}: {:?}\n", ti.device_name(), path, errno);
        CtrError {
            text: c"Device lookup failed",
            errno,
        }
    })
}

/// Empties the clone's page cache: what is dirty there would be written over the copy later, and
/// what is clean would hide it from readers.
fn prepare_cache(ti: &Constructor<'_>, clone: &BlockDevice) -> Result<(), CtrError> {
    clone.sync().map_err(|errno| {
        pr_err!(
            "{}: cannot write to {}: {:?}\n",
            ti.device_name(),
            clone,
            errno
        );
        CtrError {
            text: c"Clone device cannot be written to",
            errno,
        }
    })?;
    clone.invalidate();
    Ok(())
}

/// What a twin of an encrypted write would be is the plain text.
const CANNOT_ENCRYPT: &CStr = c"Mode mirror is not possible with a device that encrypts inline";

/// Whether writes may go to a second device, too.
pub(super) fn check_mirror(backing: &BlockDevice) -> Result<(), &'static CStr> {
    if backing.encrypts_inline() {
        Err(CANNOT_ENCRYPT)
    } else {
        Ok(())
    }
}

/// What both devices are checked against.
struct Check<'a> {
    name: DeviceName,
    geometry: &'a Geometry,
    /// Sectors of a job.
    batch: u64,
    mirrors: bool,
}

impl Check<'_> {
    /// A device that is copied onto itself would read what it has written.
    fn distinct(&self, backing: &BlockDevice, clone: &BlockDevice) -> Result<(), CtrError> {
        if backing.is(clone) {
            pr_err!(
                "{}: backing and clone device are both {}\n",
                self.name,
                clone
            );
            return Err(CtrError::invalid(c"Backing and clone are the same device"));
        }
        Ok(())
    }

    fn backing(&self, backing: &BlockDevice) -> Result<(), CtrError> {
        if backing.is_zoned() {
            pr_err!("{}: backing device {} has zones\n", self.name, backing);
            return Err(CtrError::invalid(c"Zoned backing device is not supported"));
        }
        self.fits(
            "backing",
            backing,
            self.geometry.backing_start(),
            c"Backing device is too small",
        )?;
        // The core checks that the range is made of whole blocks.
        self.whole_blocks(
            "region_size",
            self.geometry.region_size(),
            backing,
            c"region_size is smaller than the backing device's logical block",
        )?;
        self.whole_blocks(
            "batch",
            self.batch,
            backing,
            c"batch is not a multiple of the backing device's logical block",
        )
    }

    fn clone(&self, clone: &BlockDevice) -> Result<(), CtrError> {
        if clone.is_zoned() {
            pr_err!("{}: clone device {} has zones\n", self.name, clone);
            return Err(CtrError::invalid(c"Zoned clone device is not supported"));
        }
        // device-mapper opens a read-only device for writing without complaint.
        if clone.is_read_only() {
            pr_err!("{}: clone device {} is read-only\n", self.name, clone);
            return Err(CtrError {
                text: c"Clone device is read-only",
                errno: EACCES,
            });
        }
        self.fits(
            "clone",
            clone,
            self.geometry.clone_start(),
            c"Clone device is too small",
        )?;
        self.whole_blocks(
            "region_size",
            self.geometry.region_size(),
            clone,
            c"region_size is smaller than the clone device's logical block",
        )?;
        self.whole_blocks(
            "batch",
            self.batch,
            clone,
            c"batch is not a multiple of the clone device's logical block",
        )
    }

    fn fits(
        &self,
        role: &str,
        device: &BlockDevice,
        start: u64,
        text: &'static CStr,
    ) -> Result<(), CtrError> {
        let len = self.geometry.len();
        let block = u64::from(device.logical_block_sectors());
        let size = device.nr_sectors();
        // No overflow: the geometry was checked.
        let fits = |end: u64| end <= size;
        if fits(start + len) && fits((start + len).next_multiple_of(block)) {
            return Ok(());
        }
        pr_err!(
            "{}: {} device {} has {} sectors, the table wants {} from sector {} on\n",
            self.name,
            role,
            device,
            size,
            len,
            start
        );
        Err(CtrError::invalid(text))
    }

    fn whole_blocks(
        &self,
        what: &str,
        sectors: u64,
        device: &BlockDevice,
        text: &'static CStr,
    ) -> Result<(), CtrError> {
        if device.is_block_multiple(sectors) {
            return Ok(());
        }
        pr_err!(
            "{}: {} {} is not made of whole logical blocks of {}, {} bytes each\n",
            self.name,
            what,
            sectors,
            device,
            device.logical_block_size()
        );
        Err(CtrError::invalid(text))
    }
}
