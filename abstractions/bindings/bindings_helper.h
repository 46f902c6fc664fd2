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
const blk_status_t RUST_CONST_HELPER_BLK_STS_AGAIN = BLK_STS_AGAIN;
const blk_status_t RUST_CONST_HELPER_BLK_STS_NOTSUPP = BLK_STS_NOTSUPP;
const blk_status_t RUST_CONST_HELPER_BLK_STS_TARGET = BLK_STS_TARGET;
const blk_status_t RUST_CONST_HELPER_BLK_STS_INVAL = BLK_STS_INVAL;
const blk_status_t RUST_CONST_HELPER_BLK_STS_TRANSPORT = BLK_STS_TRANSPORT;
const blk_status_t RUST_CONST_HELPER_BLK_STS_OFFLINE = BLK_STS_OFFLINE;
const blk_opf_t RUST_CONST_HELPER_REQ_OP_MASK = REQ_OP_MASK;
const blk_opf_t RUST_CONST_HELPER_REQ_SYNC = REQ_SYNC;
const blk_opf_t RUST_CONST_HELPER_REQ_META = REQ_META;
const blk_opf_t RUST_CONST_HELPER_REQ_PRIO = REQ_PRIO;
const blk_opf_t RUST_CONST_HELPER_REQ_IDLE = REQ_IDLE;
const blk_opf_t RUST_CONST_HELPER_REQ_INTEGRITY = REQ_INTEGRITY;
const blk_opf_t RUST_CONST_HELPER_REQ_FUA = REQ_FUA;
const blk_opf_t RUST_CONST_HELPER_REQ_PREFLUSH = REQ_PREFLUSH;
const blk_opf_t RUST_CONST_HELPER_REQ_RAHEAD = REQ_RAHEAD;
const blk_opf_t RUST_CONST_HELPER_REQ_BACKGROUND = REQ_BACKGROUND;
const blk_opf_t RUST_CONST_HELPER_REQ_NOWAIT = REQ_NOWAIT;
const blk_opf_t RUST_CONST_HELPER_REQ_POLLED = REQ_POLLED;
const blk_opf_t RUST_CONST_HELPER_REQ_ATOMIC = REQ_ATOMIC;
const blk_opf_t RUST_CONST_HELPER_REQ_NOUNMAP = REQ_NOUNMAP;
const blk_features_t RUST_CONST_HELPER_BLK_FEAT_STABLE_WRITES = BLK_FEAT_STABLE_WRITES;
const blk_qc_t RUST_CONST_HELPER_BLK_QC_T_NONE = BLK_QC_T_NONE;
const unsigned int RUST_CONST_HELPER_BIO_CLONED = BIO_CLONED;
const unsigned int RUST_CONST_HELPER_BIO_MAX_VECS = BIO_MAX_VECS;
const unsigned int RUST_CONST_HELPER_IOPRIO_CLASS_BE = IOPRIO_CLASS_BE;
const unsigned int RUST_CONST_HELPER_IOPRIO_CLASS_IDLE = IOPRIO_CLASS_IDLE;
const unsigned int RUST_CONST_HELPER_IOPRIO_CLASS_SHIFT = IOPRIO_CLASS_SHIFT;
const unsigned int RUST_CONST_HELPER_IOPRIO_BE_NORM = IOPRIO_BE_NORM;
