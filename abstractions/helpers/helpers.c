// SPDX-License-Identifier: GPL-2.0
/*
 * Inline functions and macros of C that Rust cannot call, one file for each of
 * the kernel's headers. The kernel has its own in rust/helpers; these are linked
 * into the module as they are.
 */

#define __rust_helper

#include "bio.c"
#include "blkdev.c"
#include "mm.c"
#include "ratelimit.c"
#include "spinlock.c"
#include "srcu.c"
