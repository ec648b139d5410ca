//! Accepts connections from the listener.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::net::{TcpListener, TcpStream};

/// Pause after the first error; each further one waits twice as long.
const INITIAL_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Accepts the next connection. Errors are logged and retried: a process that has run out of file
/// descriptors has free ones again in a moment.
pub async fn accept(listener: &TcpListener, errors: &LogThrottle) -> (TcpStream, SocketAddr) {
    let mut pause = INITIAL_PAUSE;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                errors.log(|times| tracing::warn!(%error, times, "connections cannot be accepted; trying again"));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
}

/// Whether the error concerns one connection only, whose client or network has gone (see
/// accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::Interrupted
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::TimedOut
    )
}

/// Limits how often something that clients can cause at will is logged: once a second.
#[derive(Debug)]
pub struct LogThrottle {
    limiter: DefaultDirectRateLimiter,
    /// How often it has happened since it was logged last.
    unlogged: AtomicU64,
}

impl Default for LogThrottle {
    fn default() -> Self {
        Self { limiter: RateLimiter::direct(Quota::per_second(NonZeroU32::MIN)), unlogged: AtomicU64::new(0) }
    }
}

impl LogThrottle {
    /// Calls `log` with how often it has happened since the last call, unless that was less than a
    /// second ago.
    pub fn log(&self, log: impl FnOnce(u64)) {
        self.unlogged.fetch_add(1, Relaxed);
        if self.limiter.check().is_ok() {
            log(self.unlogged.swap(0, Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn an_event_is_logged_once_a_second_with_its_count() {
        let (throttle, start) = (LogThrottle::default(), Instant::now());
        let (mut calls, mut logged) = (0, Vec::new());
        while logged.len() < 2 {
            calls += 1;
            throttle.log(|times| logged.push((times, start.elapsed())));
            std::thread::yield_now();
        }
        let (first, second) = (logged[0], logged[1]);
        assert_eq!((first.0, second.0), (1, calls - 1));
        assert!(second.1.saturating_sub(first.1) > Duration::from_millis(950), "{logged:?}");
    }
}
