//! Wrong tokens, slowed down by address: each is answered later than the one before it, and while many wait for their
//! answer, their address gets no further connection. The right token is never slowed down.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The first wrong token waits so long; each further one twice as long as the one before it.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
const MOST: Duration = Duration::from_secs(5);
/// An address that has guessed nothing for so long begins anew.
const FORGET: Duration = Duration::from_mins(1);
/// Wrong tokens of one address that may wait for their answer at the same time.
const WAITING: usize = 32;

/// What is known of the addresses that wrong tokens came from lately.
#[derive(Debug, Default)]
pub struct Guesses {
    by_address: Mutex<HashMap<IpAddr, Guesser>>,
}

#[derive(Debug)]
struct Guesser {
    wrong: u32,
    waiting: usize,
    last: Instant,
}

impl Guesses {
    /// Whether an address may open another connection.
    pub fn admits(&self, address: IpAddr) -> bool {
        self.by_address().get(&network(address)).is_none_or(|guesser| guesser.waiting < WAITING)
    }

    /// Waits as long as a wrong token of this address is to wait for its answer.
    pub async fn punish(&self, address: IpAddr) {
        let (wait, _waiting) = self.count(network(address));
        tokio::time::sleep(wait).await;
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, Guesser>> {
        // Nothing in here can panic half-way through a change.
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, address: IpAddr) -> (Duration, Waiting<'_>) {
        let mut guessers = self.by_address();
        guessers.retain(|_, guesser| guesser.waiting > 0 || guesser.last.elapsed() < FORGET);
        let guesser = guessers.entry(address).or_insert_with(|| Guesser { wrong: 0, waiting: 0, last: Instant::now() });
        let wait = FIRST.saturating_mul(1 << guesser.wrong.min(16)).min(MOST);
        guesser.wrong = guesser.wrong.saturating_add(1);
        guesser.waiting += 1;
        guesser.last = Instant::now();
        (wait, Waiting { guesses: self, address })
    }
}

/// One wrong token that waits for its answer.
struct Waiting<'a> {
    guesses: &'a Guesses,
    address: IpAddr,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(guesser) = self.guesses.by_address().get_mut(&self.address) {
            guesser.waiting = guesser.waiting.saturating_sub(1);
        }
    }
}

/// Whoever has one IPv6 address has the 2^64 of its network.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            v6.to_ipv4_mapped().map_or_else(|| IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))), IpAddr::V4)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_longer_up_to_a_limit_and_others_do_not() {
        let guesses = Guesses::default();
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let waits: Vec<_> = (0..8).map(|_| guesses.count(one).0.as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(guesses.count(other).0, FIRST);
    }

    #[test]
    fn an_address_with_many_that_wait_gets_no_more_connections() {
        let guesses = Guesses::default();
        let (one, neighbour) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let waiting: Vec<_> = (0..WAITING).map(|_| guesses.count(network(one))).collect();
        assert!(!guesses.admits(one) && !guesses.admits(neighbour), "the network is one");
        assert!(guesses.admits("2001:db8:0:1::1".parse().unwrap()) && guesses.admits("192.0.2.1".parse().unwrap()));
        drop(waiting);
        assert!(guesses.admits(one));
    }
}
