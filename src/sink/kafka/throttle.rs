//! What is known of the brokers' quotas, from librdkafka's statistics.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A delay that is not reported again for so long is over: three periods of statistics.
const TTL: Duration = Duration::from_secs(30);

/// How long the brokers delay requests because of a quota. A throttled partition acknowledges a
/// batch every few seconds: that is slow, and no outage. Clones share the value.
#[derive(Debug, Clone, Default)]
pub(super) struct Throttle {
    /// The longest recent delay, and when it was reported.
    last: Arc<Mutex<Option<(Instant, Duration)>>>,
}

impl Throttle {
    /// Records what a producer reports, each period. The log tells of the first delay.
    pub fn record(&self, delay: Duration) {
        if delay.is_zero() {
            return;
        }
        let before = self.delay();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), delay.max(before)));
        if before.is_zero() {
            tracing::warn!(?delay, "Kafka throttles this service by a quota: rows are sent as fast as the quota allows");
        }
    }

    /// The longest recent delay; zero if there was none.
    pub fn delay(&self) -> Duration {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(at, _)| at.elapsed() < TTL).map_or(Duration::ZERO, |(_, delay)| delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_recent_delay_counts_and_one_that_is_over_does_not() {
        let throttle = Throttle::default();
        throttle.record(Duration::ZERO);
        assert_eq!(throttle.delay(), Duration::ZERO);
        for seconds in [3, 5, 0, 4] {
            throttle.record(Duration::from_secs(seconds));
        }
        assert_eq!(throttle.delay(), Duration::from_secs(5));
        *throttle.last.lock().unwrap() = Some((Instant::now().checked_sub(TTL).unwrap(), Duration::from_secs(5)));
        assert_eq!(throttle.delay(), Duration::ZERO);
    }
}
