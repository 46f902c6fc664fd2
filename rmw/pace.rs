// SPDX-License-Identifier: GPL-2.0

//! When the next job may begin: `rate`, and the time that a pass takes at least.

use crate::abstractions::bio::SECTOR_SIZE;
use kernel::{
    prelude::*,
    time::{Delta, Instant, Monotonic},
};

/// So much of the time in which no job began is made up for.
const LAG: Delta = Delta::from_millis(50);

/// How often to look whether the writes have ended that went past the table.
pub(super) const POLL: Delta = Delta::from_millis(20);

/// The pace. Locking: its owner's.
pub(super) struct Pace {
    /// KiB a second, 0 for no bound.
    rate: u32,
    /// When the next job may begin, and the next pass, in nanoseconds since `since`.
    job_at: i64,
    pass_at: i64,
    since: Instant<Monotonic>,
}

impl Pace {
    /// Passes over the regions begin at least so far apart, so that one that is written again and
    /// again is not copied each time.
    pub(super) const PASS: Delta = Delta::from_millis(200);

    /// So long writes wait for a job at the most of which nothing is done meanwhile.
    pub(super) const HOLD: Delta = Delta::from_millis(1000);

    /// And so long none has to after one has waited in vain.
    pub(super) const REST: Delta = Delta::from_millis(5000);

    /// How long to wait for what will happen soon, but does not tell.
    pub(super) const SOON: Delta = Delta::from_millis(2);

    /// Lets everything begin now.
    pub(super) fn new(rate: u32) -> Self {
        Self {
            rate,
            job_at: 0,
            pass_at: 0,
            since: Instant::now(),
        }
    }

    /// KiB a second, 0 for no bound.
    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    /// Sets another rate, from now on.
    pub(super) fn set_rate(&mut self, rate: u32) {
        self.rate = rate;
        self.job_at = 0;
    }

    /// Nanoseconds, for the functions below.
    pub(super) fn now(&self) -> i64 {
        self.since.elapsed().as_nanos()
    }

    /// The most sectors of a job: with a rate, what it lets through in a tenth of a second.
    pub(super) fn most(&self, batch: u32) -> u64 {
        match self.rate {
            0 => batch.into(),
            rate => u64::from(batch).min(u64::from(rate) * 2 / 10),
        }
    }

    /// How long a job has to wait, or `None`.
    pub(super) fn job_in(&self, now: i64) -> Option<Delta> {
        (self.rate > 0 && now < self.job_at).then(|| Delta::from_nanos(self.job_at - now))
    }

    /// A job of so many sectors begins.
    pub(super) fn job(&mut self, now: i64, sectors: u64) {
        if self.rate > 0 {
            let bytes = sectors.saturating_mul(SECTOR_SIZE as u64);
            let per_second = u64::from(self.rate) << 10;
            // In microseconds, so that it fits: a job has some MiB.
            let takes = (bytes.saturating_mul(1_000_000) / per_second).saturating_mul(1000);
            let takes = i64::try_from(takes).unwrap_or(i64::MAX);
            // Timers are late, and several jobs begin at once: that much is made up for.
            let earliest = now - LAG.as_nanos();
            self.job_at = self.job_at.max(earliest).saturating_add(takes);
        }
    }

    /// How long a pass has to wait, or `None`.
    pub(super) fn pass_in(&self, now: i64) -> Option<Delta> {
        (now < self.pass_at).then(|| Delta::from_nanos(self.pass_at - now))
    }

    /// A pass begins.
    pub(super) fn pass(&mut self, now: i64) {
        self.pass_at = now.saturating_add(Self::PASS.as_nanos());
    }
}

#[kunit_tests(clone_rs_pace)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn without_a_rate_jobs_never_wait() {
        let mut pace = Pace::new(0);
        pace.job(0, u64::MAX);
        assert!(pace.job_in(0).is_none());
        assert_eq!(pace.most(2048), 2048);
    }

    #[test]
    fn a_rate_bounds_bytes_a_second() {
        let mut pace = Pace::new(1024);
        let mut sectors = 0;
        let mut now = 0;
        while now < 10 * SECOND {
            match pace.job_in(now) {
                Some(delay) => now += delay.as_nanos(),
                None => {
                    let job = pace.most(2048);
                    pace.job(now, job);
                    sectors += job;
                }
            }
        }
        // 10 MiB, and what was begun in the last tenth of a second, or made up for.
        assert!((20480..=20480 + 408).contains(&sectors));
    }

    #[test]
    fn only_a_moment_without_jobs_is_made_up_for() {
        let mut pace = Pace::new(1024);
        pace.job(0, 2048);
        let lag = LAG.as_nanos();
        assert!(pace.job_in(SECOND - lag - 1).is_some());
        assert!(pace.job_in(SECOND).is_none());
        pace.job(100 * SECOND, 2048);
        assert!(pace.job_in(101 * SECOND - lag - 1).is_some());
        assert!(pace.job_in(101 * SECOND - lag).is_none());
        pace.set_rate(2048);
        assert!(pace.job_in(100 * SECOND).is_none());
    }

    #[test]
    fn late_timers_do_not_slow_it_down() {
        let mut pace = Pace::new(1024);
        let mut sectors = 0;
        let mut now = 0;
        while now < 10 * SECOND {
            match pace.job_in(now) {
                Some(delay) => now += delay.as_nanos() + 5_000_000,
                None => {
                    pace.job(now, 8);
                    sectors += 8;
                }
            }
        }
        assert!((20480 - 204..=20480 + 204).contains(&sectors));
    }

    #[test]
    fn a_pass_waits_for_the_time_of_the_one_before() {
        let mut pace = Pace::new(0);
        assert!(pace.pass_in(0).is_none());
        pace.pass(0);
        assert!(pace.pass_in(Pace::PASS.as_nanos() - 1).is_some());
        assert!(pace.pass_in(Pace::PASS.as_nanos()).is_none());
    }
}
