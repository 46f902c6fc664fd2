/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads: device-mapper.h, which the kernel crate's bindings lack,
 * and the macros that bindgen cannot see through.
 */
#include <linux/hrtimer_types.h>	/* before all else, see rust/bindings */
#include <linux/blkdev.h>
#include <linux/bio.h>
#include <linux/device-mapper.h>
#include <linux/ioprio.h>
#include <linux/workqueue.h>

const gfp_t RUST_CONST_HELPER___GFP_NORETRY = __GFP_NORETRY;
const gfp_t RUST_CONST_HELPER___GFP_COMP = __GFP_COMP;
const blk_status_t RUST_CONST_HELPER_BLK_STS_IOERR = BLK_STS_IOERR;
const blk_opf_t RUST_CONST_HELPER_REQ_OP_MASK = REQ_OP_MASK;
const blk_opf_t RUST_CONST_HELPER_REQ_PREFLUSH = REQ_PREFLUSH;
const unsigned int RUST_CONST_HELPER_BIO_MAX_VECS = BIO_MAX_VECS;
const unsigned int RUST_CONST_HELPER_IOPRIO_CLASS_BE = IOPRIO_CLASS_BE;
const unsigned int RUST_CONST_HELPER_IOPRIO_CLASS_IDLE = IOPRIO_CLASS_IDLE;
const unsigned int RUST_CONST_HELPER_IOPRIO_CLASS_SHIFT = IOPRIO_CLASS_SHIFT;
const unsigned int RUST_CONST_HELPER_IOPRIO_BE_NORM = IOPRIO_BE_NORM;
