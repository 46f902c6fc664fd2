// SPDX-License-Identifier: GPL-2.0

#include <linux/srcu.h>

__rust_helper int rust_helper_init_srcu_struct_fast_updown(struct srcu_struct *ssp)
{
	return init_srcu_struct_fast_updown(ssp);
}

/* The number of the counter: a pointer would outlive the domain where it is mistaken. */
__rust_helper int rust_helper_srcu_down_read_fast(struct srcu_struct *ssp)
{
	return __srcu_ptr_to_ctr(ssp, srcu_down_read_fast(ssp));
}

__rust_helper void rust_helper_srcu_up_read_fast(struct srcu_struct *ssp, int idx)
{
	srcu_up_read_fast(ssp, __srcu_ctr_to_ptr(ssp, idx));
}
