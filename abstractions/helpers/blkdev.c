// SPDX-License-Identifier: GPL-2.0

#include <linux/blkdev.h>
#include <linux/part_stat.h>

__rust_helper sector_t rust_helper_bdev_nr_sectors(struct block_device *bdev)
{
	return bdev_nr_sectors(bdev);
}

__rust_helper bool rust_helper_bdev_read_only(struct block_device *bdev)
{
	return bdev_read_only(bdev);
}

__rust_helper bool rust_helper_bdev_is_zoned(struct block_device *bdev)
{
	return bdev_is_zoned(bdev);
}

__rust_helper bool rust_helper_bdev_write_cache(struct block_device *bdev)
{
	return bdev_write_cache(bdev);
}

__rust_helper unsigned int rust_helper_bdev_max_discard_sectors(struct block_device *bdev)
{
	return bdev_max_discard_sectors(bdev);
}

__rust_helper unsigned int rust_helper_bdev_write_zeroes_sectors(struct block_device *bdev)
{
	return bdev_write_zeroes_sectors(bdev);
}

__rust_helper bool rust_helper_bdev_has_crypto_profile(struct block_device *bdev)
{
#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	return bdev_get_queue(bdev)->crypto_profile;
#else
	return false;
#endif
}

__rust_helper unsigned int rust_helper_bdev_logical_block_size(struct block_device *bdev)
{
	return bdev_logical_block_size(bdev);
}

__rust_helper unsigned int rust_helper_bdev_dma_alignment(struct block_device *bdev)
{
	return bdev_dma_alignment(bdev);
}

__rust_helper unsigned long rust_helper_bdev_virt_boundary(struct block_device *bdev)
{
	return queue_virt_boundary(bdev_get_queue(bdev));
}

__rust_helper unsigned int rust_helper_disk_count_inflight(struct gendisk *disk)
{
	return bdev_count_inflight(disk->part0);
}

__rust_helper bool rust_helper_disk_counts_io(struct gendisk *disk)
{
	return blk_queue_io_stat(disk->queue);
}

__rust_helper u64 rust_helper_disk_ended_writes(struct gendisk *disk)
{
	struct block_device *part = disk->part0;

	return part_stat_read(part, ios[STAT_WRITE]) +
	       part_stat_read(part, ios[STAT_DISCARD]) +
	       part_stat_read(part, ios[STAT_FLUSH]);
}
