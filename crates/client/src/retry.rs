//! When a lost connection is retried.

use std::time::Duration;

/// How often and how soon a lost connection is retried. Delays double from `initial_delay` to
/// `max_delay`, with jitter.
///
/// ```
/// # use std::time::Duration;
/// # use data_patch_client::RetryPolicy;
/// let patient = RetryPolicy { max_attempts: 1_000, ..RetryPolicy::default() };
/// assert_eq!(patient.max_delay, Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Maximum consecutive failed attempts. A new entry or reply resets the count.
    pub max_attempts: u32,
    pub initial_delay: Duration,
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    /// Ten attempts in about half a minute, in which a service restarts.
    fn default() -> Self {
        Self { max_attempts: 10, initial_delay: Duration::from_millis(100), max_delay: Duration::from_secs(5) }
    }
}

impl RetryPolicy {
    /// The delay after this many consecutive failures: between half and all of the doubled delay,
    /// so that the clients of a restarted service do not reconnect at the same moment.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let doubled = self.initial_delay.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        doubled.min(self.max_delay).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit() {
        let policy = RetryPolicy::default();
        for (failures, most_ms) in [(1, 100), (2, 200), (6, 3_200), (7, 5_000), (u32::MAX, 5_000)] {
            let (delay, most) = (policy.delay(failures), Duration::from_millis(most_ms));
            assert!(delay >= most / 2 && delay <= most, "{failures}: {delay:?}");
        }
    }
}
