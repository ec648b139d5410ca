//! Moments that all jobs of a pool have in common: what they store then goes to the disk in one commit.

use std::time::{Duration, Instant};

/// Every so long since some moment.
#[derive(Debug, Clone, Copy)]
pub struct Ticks {
    since: Instant,
    every: Duration,
}

impl Ticks {
    pub fn new(since: Instant, every: Duration) -> Self {
        Self { since, every }
    }

    /// The first after `now`.
    pub fn after(&self, now: Instant) -> Instant {
        let passed = now.saturating_duration_since(self.since).as_nanos() / self.every.as_nanos().max(1);
        self.since + self.every.saturating_mul(u32::try_from(passed).unwrap_or(u32::MAX).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_same_for_all_who_ask_in_between() {
        let since = Instant::now();
        let ticks = Ticks::new(since, Duration::from_millis(20));
        let at = |ms| since + Duration::from_millis(ms);
        assert_eq!([0, 1, 19, 20].map(|ms| ticks.after(at(ms))), [20, 20, 20, 40].map(at));
    }
}
