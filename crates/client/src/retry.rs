//! How a lost connection comes back.

use std::time::Duration;

/// How often and how fast a lost connection is tried again. Waits double from `first_delay` to `max_delay`, with jitter.
///
/// ```
/// # use std::time::Duration;
/// # use data_patch_client::RetryPolicy;
/// let patient = RetryPolicy { max_attempts: 1_000, ..RetryPolicy::default() };
/// assert_eq!(patient.max_delay, Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in a row that may fail; a new entry or answer starts the count anew.
    pub max_attempts: u32,
    pub first_delay: Duration,
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    /// Ten attempts within about half a minute: longer than a service takes to restart.
    fn default() -> Self {
        Self { max_attempts: 10, first_delay: Duration::from_millis(100), max_delay: Duration::from_secs(5) }
    }
}

impl RetryPolicy {
    /// The wait after so many failures in a row: between half and all of the doubled delay, so that the clients of a
    /// service that restarts do not come back in the same instant.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let doubled = self.first_delay.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
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
