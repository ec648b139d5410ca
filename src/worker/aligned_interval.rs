//! Moments that all jobs of a pool have in common: what they store then goes to the disk in one commit.

use std::time::{Duration, Instant};

/// Every so long since some moment.
#[derive(Debug, Clone, Copy)]
pub struct AlignedInterval {
    since: Instant,
    every: Duration,
}

impl AlignedInterval {
    pub fn new(since: Instant, every: Duration) -> Self {
        Self { since, every }
    }

    /// The first after `now`.
    pub fn next_after(&self, now: Instant) -> Instant {
        let every = self.every.as_nanos().max(1);
        let left = every - now.saturating_duration_since(self.since).as_nanos() % every;
        now + Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_same_for_all_who_ask_in_between() {
        let since = Instant::now();
        let ticks = AlignedInterval::new(since, Duration::from_millis(20));
        let at = |ms| since + Duration::from_millis(ms);
        assert_eq!([0, 1, 19, 20].map(|ms| ticks.next_after(at(ms))), [20, 20, 20, 40].map(at));
    }

    #[test]
    fn the_next_is_ahead_after_years_too() {
        let since = Instant::now();
        let ticks = AlignedInterval::new(since, Duration::from_millis(1));
        let now = since + Duration::from_hours(24 * 365 * 10);
        assert_eq!(ticks.next_after(now), now + Duration::from_millis(1));
    }
}
