// SPDX-License-Identifier: GPL-2.0

//! Opening both devices, and refusing those that can't be cloned.

use super::args::Table;
use crate::{
    abstractions::{
        block::BlockDevice,
        device_mapper::{Constructor, CtrError, Device},
    },
    mapping::geometry::Geometry,
};
use kernel::prelude::*;

/// Opens and checks the backing device and the clone.
pub(super) fn open(
    ti: &mut Constructor<'_>,
    table: &Table<'_>,
    geometry: &Geometry,
) -> Result<(Device, Device), CtrError> {
    let backing = get(ti, table.backing)?;
    let clone = get(ti, table.clone)?;
    check_distinct(&backing, &clone, geometry)?;
    check_backing(&backing, geometry)?;
    check_clone(&clone, geometry)?;
    Ok((backing, clone))
}

fn get(ti: &mut Constructor<'_>, path: &CStr) -> Result<Device, CtrError> {
    ti.get_device(path).map_err(|errno| {
        pr_err!("cannot open {}: {:?}\n", path, errno);
        CtrError {
            text: c"Device lookup failed",
            errno,
        }
    })
}

/// A device that is copied onto itself would read what it has written.
fn check_distinct(
    backing: &BlockDevice,
    clone: &BlockDevice,
    geometry: &Geometry,
) -> Result<(), CtrError> {
    if backing.is(clone) {
        pr_err!("backing and clone device are both {}\n", clone);
        return Err(CtrError::invalid(c"Backing and clone are the same device"));
    }
    // Of a disk and its partition, or of two devices over the same sectors.
    let start = |device: &BlockDevice, offset: u64| device.start_sector().saturating_add(offset);
    let distance =
        start(backing, geometry.backing_start()).abs_diff(start(clone, geometry.clone_start()));
    if backing.same_disk(clone) && distance < geometry.len() {
        pr_err!("the ranges of {} and {} overlap\n", backing, clone);
        return Err(CtrError::invalid(c"Backing and clone ranges overlap"));
    }
    Ok(())
}

fn check_backing(backing: &BlockDevice, geometry: &Geometry) -> Result<(), CtrError> {
    if backing.is_zoned() {
        pr_err!("backing device {} has zones\n", backing);
        return Err(CtrError::invalid(c"Zoned backing device is not supported"));
    }
    check_size(
        "backing",
        backing,
        geometry.backing_start(),
        geometry.len(),
        c"Backing device is too small",
    )
}

fn check_clone(clone: &BlockDevice, geometry: &Geometry) -> Result<(), CtrError> {
    if clone.is_zoned() {
        pr_err!("clone device {} has zones\n", clone);
        return Err(CtrError::invalid(c"Zoned clone device is not supported"));
    }
    // device-mapper opens a read-only device for writing without complaint.
    if clone.is_read_only() {
        pr_err!("clone device {} is read-only\n", clone);
        return Err(CtrError {
            text: c"Clone device is read-only",
            errno: EACCES,
        });
    }
    check_size(
        "clone",
        clone,
        geometry.clone_start(),
        geometry.len(),
        c"Clone device is too small",
    )?;
    if !clone.is_block_multiple(geometry.region_size()) {
        pr_err!(
            "region size {} is below the logical block of {}, {} bytes\n",
            geometry.region_size(),
            clone,
            clone.logical_block_size()
        );
        return Err(CtrError::invalid(
            c"region_size is smaller than the clone device's logical block",
        ));
    }
    if !clone.is_block_multiple(geometry.clone_start()) || !clone.is_block_multiple(geometry.len())
    {
        pr_err!(
            "offset {} and length {} are not whole logical blocks of {}, {} bytes\n",
            geometry.clone_start(),
            geometry.len(),
            clone,
            clone.logical_block_size()
        );
        return Err(CtrError::invalid(
            c"Clone range is not made of whole logical blocks",
        ));
    }
    Ok(())
}

fn check_size(
    what: &str,
    device: &BlockDevice,
    offset: u64,
    len: u64,
    text: &'static CStr,
) -> Result<(), CtrError> {
    let size = device.nr_sectors();
    if offset.checked_add(len).is_some_and(|end| end <= size) {
        return Ok(());
    }
    pr_err!(
        "{} device {} has {} sectors, the table wants {} from sector {} on\n",
        what,
        device,
        size,
        len,
        offset
    );
    Err(CtrError::invalid(text))
}
