//! When a failure that lasts is logged: at its beginning, then less and less often, and at its end.
//! What is tried twice a second would otherwise fill the log with one sentence.

use std::time::{Duration, Instant};

/// The distance to the second line. Each further one is twice as long as the one before.
const FIRST_DISTANCE: Duration = Duration::from_secs(2);

/// The longest distance between two lines.
const MAX_DISTANCE: Duration = Duration::from_mins(1);

/// The failures in a row of something that is tried again and again.
#[derive(Debug, Default)]
pub(super) struct FailureLog {
    lasting: Option<Lasting>,
}

#[derive(Debug)]
struct Lasting {
    since: Instant,
    logged_at: Instant,
    distance: Duration,
}

impl FailureLog {
    /// Records a failure. Returns how long it has lasted if it is to be logged now.
    pub fn record_failure(&mut self, now: Instant) -> Option<Duration> {
        let Some(lasting) = &mut self.lasting else {
            self.lasting = Some(Lasting { since: now, logged_at: now, distance: FIRST_DISTANCE });
            return Some(Duration::ZERO);
        };
        if now.duration_since(lasting.logged_at) < lasting.distance {
            return None;
        }
        lasting.logged_at = now;
        lasting.distance = (lasting.distance * 2).min(MAX_DISTANCE);
        Some(now.duration_since(lasting.since))
    }

    /// Records a success. Returns how long the failure has lasted if one ends with it.
    pub fn record_success(&mut self, now: Instant) -> Option<Duration> {
        self.lasting.take().map(|lasting| now.duration_since(lasting.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_lasts_is_logged_less_and_less_often() {
        let (mut log, start) = (FailureLog::default(), Instant::now());
        let after = |half_seconds: u64| Duration::from_millis(500 * half_seconds);
        let logged: Vec<u64> = (0..600_u64)
            .filter_map(|tick| log.record_failure(start + after(tick)).inspect(|lasted| assert_eq!(*lasted, after(tick))))
            .map(|lasted| lasted.as_secs())
            .collect();
        assert_eq!(logged, [0, 2, 6, 14, 30, 62, 122, 182, 242]);
    }

    #[test]
    fn the_end_is_logged_once_and_the_next_failure_is_a_new_one() {
        let (mut log, start) = (FailureLog::default(), Instant::now());
        assert_eq!(log.record_success(start), None);
        log.record_failure(start);
        let end = start + Duration::from_secs(1);
        assert_eq!(log.record_success(end), Some(Duration::from_secs(1)));
        assert_eq!(log.record_success(end), None);
        assert_eq!(log.record_failure(end), Some(Duration::ZERO));
    }
}
