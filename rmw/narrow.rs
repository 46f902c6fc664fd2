// SPDX-License-Identifier: GPL-2.0

//! How a job finds out which logical blocks can't be read: it reads less and less from where it is,
//! and more again after what is bad. All in sectors. Nothing here calls the kernel.

use kernel::prelude::*;

/// How much a job reads at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Narrow {
    /// The most.
    most: u64,
    /// Now.
    step: u64,
    /// Where the last read ended that failed: something before that is bad, but was not found.
    suspect: u64,
}

impl Narrow {
    /// Nothing has failed.
    pub(super) fn new(most: u64) -> Self {
        Self {
            most,
            step: most,
            suspect: 0,
        }
    }

    /// How much to read.
    pub(super) fn step(self) -> u64 {
        self.step
    }

    /// A read of `len` sectors up to `end` has failed; blocks have `block` sectors. Returns whether
    /// that was one block, which is bad. Else less of the same is to be read: then all before the
    /// first bad block is read in halves, and at most one read fails for each time that halves.
    pub(super) fn failed(&mut self, len: u64, end: u64, block: u64) -> bool {
        if len <= block {
            self.step = block;
            self.suspect = 0;
            return true;
        }
        self.step = (len / 2 / block * block).max(block);
        self.suspect = end;
        false
    }

    /// All up to `end` was read.
    pub(super) fn passed(&mut self, end: u64) {
        if end >= self.suspect {
            self.step = self.step.saturating_mul(2).min(self.most);
        }
    }
}

#[kunit_tests(clone_rs_narrow)]
mod tests {
    use super::*;

    /// Reads `len` sectors, of which the blocks at `bad` can't be read: returns what was found bad
    /// or read twice, and how many reads failed and succeeded.
    fn read_all(len: u64, most: u64, block: u64, bad: &[u64]) -> Result<(KVec<u64>, u64, u64)> {
        let mut narrow = Narrow::new(most);
        let mut found = KVec::new();
        let (mut at, mut failed, mut passed) = (0, 0, 0);
        while at < len {
            let end = (at + narrow.step()).min(len);
            assert!(narrow.step() % block == 0 && narrow.step() <= most);
            if bad.iter().any(|bad| (at..end).contains(bad)) {
                failed += 1;
                if narrow.failed(end - at, end, block) {
                    found.push(at, GFP_KERNEL)?;
                    at = end;
                }
            } else {
                passed += 1;
                narrow.passed(end);
                at = end;
            }
        }
        Ok((found, failed, passed))
    }

    #[test]
    fn each_bad_block_is_found() -> Result {
        for block in [1, 8] {
            for bad in [0, 8, 104, 1000, 1016] {
                let (found, failed, passed) = read_all(1024, 256, block, &[bad])?;
                assert_eq!(&*found, [bad]);
                // From 256 down to one block.
                assert!(failed <= 9);
                assert!(passed < 40);
            }
            let bad = [0, 8, 16, 72, 512, 520, 1016];
            assert_eq!(&*read_all(1024, 256, block, &bad)?.0, bad);
        }
        Ok(())
    }

    #[test]
    fn of_bad_blocks_in_a_row_each_is_read_once() -> Result {
        let mut bad = KVec::new();
        for at in 256..768 {
            bad.push(at, GFP_KERNEL)?;
        }
        let (found, failed, _) = read_all(1024, 256, 1, &bad)?;
        assert_eq!(&*found, &*bad);
        assert_eq!(failed, 512 + 8);
        Ok(())
    }

    #[test]
    fn a_piece_need_not_be_halved_evenly() -> Result {
        assert_eq!(&*read_all(1000, 24, 8, &[16, 40, 992])?.0, [16, 40, 992]);
        assert_eq!(&*read_all(7, 256, 1, &[6])?.0, [6]);
        Ok(())
    }

    #[test]
    fn after_an_error_that_does_not_come_again_reads_grow() {
        let mut narrow = Narrow::new(256);
        assert!(!narrow.failed(256, 256, 8));
        assert_eq!(narrow.step(), 128);
        narrow.passed(128);
        assert_eq!(narrow.step(), 128);
        narrow.passed(256);
        assert_eq!(narrow.step(), 256);
    }
}
