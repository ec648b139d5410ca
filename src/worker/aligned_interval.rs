//! An interval whose ticks are the same for all jobs of a pool, so that their writes share a
//! commit.

use std::time::{Duration, Instant};

/// Ticks at multiples of a period after a start time.
#[derive(Debug, Clone, Copy)]
pub struct AlignedInterval {
    start: Instant,
    period: Duration,
}

impl AlignedInterval {
    pub fn new(start: Instant, period: Duration) -> Self {
        Self { start, period }
    }

    /// The first tick after `now`.
    pub fn next_after(&self, now: Instant) -> Instant {
        let period = self.period.as_nanos().max(1);
        let left = period - now.saturating_duration_since(self.start).as_nanos() % period;
        now + Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_tick_is_the_same_for_all_times_before_it() {
        let start = Instant::now();
        let ticks = AlignedInterval::new(start, Duration::from_millis(20));
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!([0, 1, 19, 20].map(|ms| ticks.next_after(at(ms))), [20, 20, 20, 40].map(at));
    }

    #[test]
    fn the_next_tick_is_correct_after_years() {
        let start = Instant::now();
        let ticks = AlignedInterval::new(start, Duration::from_millis(1));
        let now = start + Duration::from_hours(24 * 365 * 10);
        assert_eq!(ticks.next_after(now), now + Duration::from_millis(1));
    }
}
