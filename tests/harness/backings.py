# SPDX-License-Identifier: GPL-2.0
"""Unlike kinds of backing devices, by name: what a test of transparency goes through."""

from collections.abc import Callable

from harness.disk import Disk
from harness.rig import Rig


def _md_raid1(rig: Rig) -> Disk:
    return rig.md_raid1(rig.null_blk(), rig.null_blk())


def _dm_linear(rig: Rig) -> Disk:
    """A mapped device: its own limits are stacked ones, with a write cache and discard."""
    return rig.linear(rig.null_blk(cache_size=1, discard=1), 64).disk


BACKINGS: dict[str, Callable[[Rig], Disk]] = {
    "null_blk-512": lambda rig: rig.null_blk(),
    "null_blk-4096": lambda rig: rig.null_blk(blocksize=4096),
    "null_blk-write-cache": lambda rig: rig.null_blk(cache_size=1, fua=0),
    "null_blk-write-cache-fua": lambda rig: rig.null_blk(cache_size=1, fua=1),
    "null_blk-discard": lambda rig: rig.null_blk(discard=1),
    "null_blk-virt-boundary": lambda rig: rig.null_blk(virt_boundary=1),
    "null_blk-small-slow": lambda rig: rig.null_blk(max_sectors=64, rotational=1, irqmode=2),
    "null_blk-poll": lambda rig: rig.null_blk(poll_queues=2, submit_queues=2),
    "loop": lambda rig: rig.loop(),
    "loop-4096": lambda rig: rig.loop(block=4096),
    "brd": lambda rig: rig.brd(),
    "scsi-dif-dix": lambda rig: rig.scsi_debug(dif=1, dix=1, per_host_store=1),
    "scsi-dif3-dix-4096": lambda rig: rig.scsi_debug(
        dif=3, dix=1, sector_size=4096, per_host_store=1
    ),
    "scsi-atomic": lambda rig: rig.scsi_debug(atomic_wr=1),
    "scsi-optimal-io": lambda rig: rig.scsi_debug(
        opt_blks=256, opt_xferlen_exp=6, physblk_exp=3, lowest_aligned=7
    ),
    "scsi-provisioned": lambda rig: rig.scsi_debug(lbpu=1, lbpws=1, lbprz=1),
    "md-raid1": _md_raid1,
    "dm-linear": _dm_linear,
}
