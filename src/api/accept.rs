//! Taking connections from the listener.

use std::{
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::net::{TcpListener, TcpStream};

/// Between two attempts after an error: the first time, and at the most.
const WAIT: Duration = Duration::from_millis(10);
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Takes the next connection. Errors are told and waited out: a service that can't take connections for want of a descriptor
/// can again in a moment.
pub async fn accept(listener: &TcpListener, errors: &LogThrottle) -> (TcpStream, SocketAddr) {
    let mut wait = WAIT;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                errors.tell(|times| tracing::warn!(%error, times, "connections can't be taken; trying again"));
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(MAX_WAIT);
            }
        }
    }
}

/// The client left again, or its network did: the next connection has nothing of it (accept(2)).
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

/// Tells of something that clients can make happen as often as they like once a second at the most.
#[derive(Debug, Default)]
pub struct LogThrottle {
    told: Mutex<(Option<Instant>, u64)>,
}

impl LogThrottle {
    /// Calls `tell` with how many times it happened since it was told last, unless that was a moment ago.
    pub fn tell(&self, tell: impl FnOnce(u64)) {
        // Nothing in here can panic half-way through a change.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.1 += 1;
        if told.0.is_none_or(|last| last.elapsed() >= Duration::from_secs(1)) {
            let times = std::mem::take(&mut told.1);
            told.0 = Some(Instant::now());
            drop(told);
            tell(times);
        }
    }
}
