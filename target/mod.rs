// SPDX-License-Identifier: GPL-2.0

//! Speaks device-mapper: what a table line, a message and a status request mean, and what happens
//! at a suspend. The work is done in `mapping` and `rmw`.

#![deny(unsafe_code)]

mod args;
mod devices;
mod features;
mod message;
mod status;

use crate::{
    abstractions::{
        block::BlockDevice,
        device_mapper::{
            Args, BioCounts, Constructor, CtrError, Device, DeviceName, Features, IoctlAccess,
            IterateDevices, MapResult, MappedBio, StatusType, Target, Text,
        },
        mm,
        ratelimit::RateLimit,
    },
    mapping::{self, geometry::Geometry},
    rmw::{Engine, Pipeline},
};
use kernel::{prelude::*, sync::Arc};

/// A live device that is passed through, and copied.
#[pin_data]
pub(crate) struct CloneTarget {
    name: DeviceName,
    geometry: Geometry,
    backing: Device,
    clone: Device,
    engine: Arc<Engine>,
    #[pin]
    log: RateLimit,
}

#[vtable]
impl Target for CloneTarget {
    const NAME: &'static CStr = c"clone-rs";
    const VERSION: [u32; 3] = [0, 1, 0];
    const FEATURES: Features = Features::PASSES_INTEGRITY
        .with(Features::NOWAIT)
        .with(Features::PASSES_CRYPTO)
        .with(Features::ATOMIC_WRITES)
        .with(Features::ALWAYS_WRITEABLE);

    /// `<backing dev> <offset> <clone dev> <offset> [<#feature args> [<feature arg>]...]`
    fn ctr(ti: &mut Constructor<'_>, args: Args<'_>) -> Result<Pin<KBox<Self>>, CtrError> {
        let name = ti.device_name();
        let table = args::parse(args.iter()).map_err(|refusal| refusal.log(name))?;
        let geometry = table
            .geometry(ti.begin(), ti.len())
            .map_err(|refusal| refusal.log(name))?;
        let (backing, clone) = devices::open(ti, &table, &geometry)?;
        let engine = engine(name, &backing, &clone, geometry, table.options.pipeline)?;

        ti.set_bio_counts(BioCounts {
            flush: 1,
            discard: 1,
            secure_erase: 1,
            write_zeroes: 1,
        });
        Ok(KBox::pin_init(
            pin_init!(Self {
                name,
                geometry,
                backing,
                clone,
                engine,
                log <- RateLimit::new(c"dm_clone_rs: message"),
            }),
            GFP_KERNEL,
        )?)
    }

    fn dtr(&self) {
        self.engine.stop();
        // What somebody read of the clone through its page cache meanwhile is old.
        self.clone.invalidate();
    }

    fn map<'a>(&self, bio: MappedBio<'a>) -> MapResult<'a> {
        mapping::map(&self.geometry, &self.backing, bio)
    }

    /// Waits for the jobs here already: the user's I/O goes on until the core has blocked it, and a
    /// signal ends this wait. What it leaves is waited for in `postsuspend`.
    fn presuspend(&self) {
        self.engine.shut();
        self.engine.drain_interruptibly();
    }

    fn presuspend_undo(&self) {
        self.engine.open();
    }

    /// When the suspend is done, nothing of ours is in flight.
    fn postsuspend(&self) {
        self.engine.drain();
    }

    fn resume(&self) {
        self.engine.open();
    }

    fn status(&self, kind: StatusType, text: &mut Text<'_>) {
        // A full text is cut off, which the core sees and handles.
        let _ = match kind {
            StatusType::Info => status::info(self, text),
            StatusType::Table => status::table(self, text),
            StatusType::Ima => status::ima(self, text),
        };
    }

    fn message(&self, args: Args<'_>) -> Result {
        message::handle(self, args).map_err(|refusal| {
            if self.log.allows() {
                pr_err!("{}: message refused: {}\n", self.name, refusal);
            }
            refusal.errno()
        })
    }

    /// As dm-linear: only where the whole backing device is mapped are all ioctls passed on.
    fn prepare_ioctl(&self) -> (&BlockDevice, IoctlAccess) {
        let whole =
            self.geometry.backing_start() == 0 && self.geometry.len() == self.backing.nr_sectors();
        let access = if whole {
            IoctlAccess::Whole
        } else {
            IoctlAccess::Part
        };
        (&self.backing, access)
    }

    /// The backing range only, so that the mapped device has the limits that dm-linear would give
    /// it; what the clone lacks is none of the user's business.
    fn iterate_devices(&self, devices: &IterateDevices<'_>) -> c_int {
        devices.call(
            &self.backing,
            self.geometry.backing_start(),
            self.geometry.len(),
        )
    }
}

/// Makes the copying side, unless it would take more than an eighth of the machine's memory.
fn engine(
    name: DeviceName,
    backing: &Device,
    clone: &Device,
    geometry: Geometry,
    pipeline: Pipeline,
) -> Result<Arc<Engine>, CtrError> {
    if pipeline.bytes() > mm::total_memory() / 8 {
        pr_err!(
            "{}: table refused: {} jobs of {} sectors are too much for this machine's memory\n",
            name,
            pipeline.depth,
            pipeline.batch
        );
        return Err(CtrError {
            text: c"depth times batch is more than an eighth of the memory",
            errno: ENOMEM,
        });
    }
    Ok(Engine::new(
        name,
        backing.clone(),
        clone.clone(),
        geometry,
        pipeline,
    )?)
}

#[kunit_tests(clone_rs_target)]
mod tests {
    use super::*;

    /// The core lets encrypted bios through to targets with this feature only; see `mapping::route`
    /// for the other half.
    #[test]
    fn encrypted_bios_are_let_through() {
        let features = CloneTarget::FEATURES;
        assert!(features.with(Features::PASSES_CRYPTO) == features);
    }
}
