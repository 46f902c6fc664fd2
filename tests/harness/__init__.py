# SPDX-License-Identifier: GPL-2.0
"""What the tests are made of: devices below, the mapped device, I/O, and what to look at."""
