// SPDX-License-Identifier: GPL-2.0

#include <linux/srcu.h>

__rust_helper int rust_helper_init_srcu_struct(struct srcu_struct *ssp)
{
	return init_srcu_struct(ssp);
}

__rust_helper int rust_helper_srcu_down_read(struct srcu_struct *ssp)
{
	return srcu_down_read(ssp);
}

__rust_helper void rust_helper_srcu_up_read(struct srcu_struct *ssp, int idx)
{
	srcu_up_read(ssp, idx);
}
