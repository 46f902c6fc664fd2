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
            Args, BioCounts, Constructor, CtrError, Device, DeviceName, EndResult, EndingBio,
            Features, Instances, IoctlAccess, IterateDevices, Limits, MapResult, MappedBio, Reply,
            StatusType, Suspend, Target, Text,
        },
        ratelimit::RateLimit,
        workqueue::OwnedQueue,
    },
    mapping::{geometry::Geometry, Effect, Legs, Mapping, Mode},
    rmw::Engine,
};
use features::Options;
use kernel::{
    prelude::*,
    str::CString,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// A live device that is passed through, and copied.
#[pin_data]
pub(crate) struct CloneTarget {
    name: DeviceName,
    backing: Device,
    clone: Device,
    options: Options,
    mapping: Arc<Mapping>,
    engine: Arc<Engine>,
    /// Whether it was resumed, and no other target has taken over its state.
    live: Atomic<bool>,
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

    type BioData = Effect;

    /// `<backing dev> <offset> <clone dev> <offset> [<#feature args> [<feature arg>]...]`
    fn ctr(ti: &mut Constructor<'_>, args: Args<'_>) -> Result<Pin<KBox<Self>>, CtrError> {
        let name = ti.device_name();
        let table = args::parse(args.iter()).map_err(|refusal| refusal.log(name))?;
        let geometry = table
            .geometry(ti.begin(), ti.len())
            .map_err(|refusal| refusal.log(name))?;
        let (backing, clone) = devices::open(ti, &table, &geometry)?;
        let geometry = geometry
            .on_blocks(
                backing.logical_block_sectors(),
                clone.logical_block_sectors(),
            )
            .map_err(|error| args::Refusal::from(error).log(name))?;
        let options = table.options;
        check_memory(name, &geometry, &options)?;
        let queue_name = CString::try_from_fmt(fmt!("clone-rs/{name}"))?;
        let queue = Arc::new(OwnedQueue::new(&queue_name, 0)?, GFP_KERNEL)?;
        let mapping = Mapping::new(
            geometry,
            Legs::new(backing.clone(), clone.clone()),
            options.settings,
            queue.clone(),
        )?;
        let engine = Engine::new(
            name,
            ti.mapped_device(),
            mapping.clone(),
            queue,
            options.pipeline,
            options.rate,
            options.policy,
        )?;

        ti.set_bio_counts(BioCounts {
            flush: 1,
            discard: 1,
            secure_erase: 1,
            write_zeroes: 1,
        });
        let target = KBox::pin_init(
            pin_init!(Self {
                name,
                backing,
                clone,
                options,
                mapping,
                engine,
                live: Atomic::new(false),
                log <- RateLimit::new(c"dm_clone_rs: message"),
            }),
            GFP_KERNEL,
        )?;
        // They have each other until `dtr`, which is called from here on.
        target.mapping.set_copier(target.engine.clone());
        Ok(target)
    }

    /// Not where another target has the rest of one of the clone's blocks: both would write all of
    /// it. What is live of the same device is to go when this one comes.
    fn check_beside(&self, other: &Self) -> Result<(), CtrError> {
        let goes = other.name == self.name && other.live.load(Relaxed);
        let shares = self
            .mapping
            .geometry
            .shares_a_block(&other.mapping.geometry);
        if goes || !shares || !self.clone.is(&other.clone) {
            return Ok(());
        }
        pr_err!(
            "{}: {} clones to a part of the same logical block of {}\n",
            self.name,
            other.name,
            *self.clone
        );
        Err(CtrError {
            text: c"Another target clones to a part of the same logical block",
            errno: EBUSY,
        })
    }

    fn dtr(&self) {
        self.engine.stop();
        // What somebody read of the clone through its page cache meanwhile is old.
        self.clone.invalidate();
    }

    #[inline]
    fn map<'a>(&self, bio: MappedBio<'a, Effect>) -> MapResult<'a> {
        self.mapping.map(bio)
    }

    #[inline]
    fn end_io<'a>(&self, bio: EndingBio<'a, Effect>) -> EndResult<'a> {
        let (result, wake) = self.mapping.end(bio);
        self.engine.wake_if(wake);
        result
    }

    fn presuspend(&self, how: Suspend) {
        self.engine.presuspend(how);
    }

    fn presuspend_undo(&self) {
        self.engine.open();
    }

    fn postsuspend(&self) {
        self.engine.postsuspend();
    }

    /// The first time, the state of the target is taken over that this one replaces.
    fn preresume(&self, others: &Instances<Self>) -> Result {
        if self.live.load(Relaxed) {
            return Ok(());
        }
        let taken_over = others.find(|other| {
            other.is_replaced_by(self).then(|| {
                self.engine.adopt(&other.engine);
                other.live.store(false, Relaxed);
            })
        });
        if taken_over.is_some() {
            pr_info!("{}: the state of the table before is kept\n", self.name);
        } else {
            let regions = self.mapping.geometry.regions();
            pr_info!("{}: all {} regions are dirty\n", self.name, regions);
        }
        self.live.store(true, Relaxed);
        if self.options.policy.autostart && self.engine.is_idle() {
            self.engine.start();
        }
        Ok(())
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

    fn message(&self, args: Args<'_>) -> Result<Reply<Self>> {
        message::handle(self, args).map_err(|refusal| {
            if self.log.allows() {
                pr_err!("{}: message refused: {}\n", self.name, refusal);
            }
            refusal.errno()
        })
    }

    /// As dm-linear: only where the whole backing device is mapped are all ioctls passed on.
    fn prepare_ioctl(&self) -> (&BlockDevice, IoctlAccess) {
        let geometry = &self.mapping.geometry;
        let whole = geometry.backing_start() == 0 && geometry.len() == self.backing.nr_sectors();
        let access = if whole {
            IoctlAccess::Whole
        } else {
            IoctlAccess::Part
        };
        (&self.backing, access)
    }

    /// What is written back for a file system must not change on its way to two devices. The rest
    /// is as the backing device has it.
    fn io_hints(&self, limits: &mut Limits<'_>) {
        if self.options.settings.mode == Mode::Mirror {
            limits.set_stable_writes();
        }
    }

    /// The backing range only, so that the mapped device has the limits that dm-linear would give
    /// it; what the clone lacks is none of the user's business.
    fn iterate_devices(&self, devices: &IterateDevices<'_>) -> c_int {
        devices.call(
            &self.backing,
            self.mapping.geometry.backing_start(),
            self.mapping.geometry.len(),
        )
    }
}

impl CloneTarget {
    /// Whether the other one is what this one becomes by a reload: then it goes on with the state.
    /// The length may differ.
    fn is_replaced_by(&self, other: &Self) -> bool {
        self.live.load(Relaxed)
            && self.engine.is_up_to_date()
            && self.name == other.name
            && self.backing.is(&other.backing)
            && self.clone.is(&other.clone)
            && self.mapping.geometry.is_alike(&other.mapping.geometry)
    }

    /// Whether a mode is possible with these devices.
    fn check_mode(&self, mode: Mode) -> Result<(), &'static CStr> {
        match mode {
            Mode::Track => Ok(()),
            Mode::Mirror => devices::check_mirror(&self.backing),
        }
    }

    /// Whether bios may have so many sectors.
    fn check_batch(&self, batch: u32) -> Result<(), &'static CStr> {
        if self.clone.is_block_multiple(batch.into())
            && self.backing.is_block_multiple(batch.into())
        {
            Ok(())
        } else {
            Err(c"batch is not made of whole logical blocks of both devices")
        }
    }
}

/// Refuses what would take more than an eighth of the machine's memory.
fn check_memory(name: DeviceName, geometry: &Geometry, options: &Options) -> Result<(), CtrError> {
    let pipeline = options.pipeline;
    if Engine::fits_memory(pipeline, geometry) {
        return Ok(());
    }
    pr_err!(
        "{}: table refused: {} jobs of {} sectors and {} regions are too much for this machine's \
         memory\n",
        name,
        pipeline.depth,
        pipeline.batch,
        geometry.regions()
    );
    Err(CtrError {
        text: c"depth times batch and the regions take more than an eighth of the memory",
        errno: ENOMEM,
    })
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
