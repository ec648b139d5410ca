//! Wrong tokens, slowed down by address: each is answered later than the one before it. The right token never waits, whoever
//! else sends wrong ones from its address: a connection is refused for what it says, not for where it comes from.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::proxies::network;

/// The first wrong token waits so long; each further one twice as long as the one before it.
const INITIAL_DELAY: Duration = Duration::from_millis(100);
/// The longest wait.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// An address that has guessed nothing for so long begins anew.
const FORGET_AFTER: Duration = Duration::from_mins(1);
/// Addresses that are remembered; while there are so many, those of further ones wait the longest.
const MAX_REMEMBERED: usize = 4_096;

/// What is known of the addresses that wrong tokens came from lately.
#[derive(Debug, Default)]
pub struct LoginThrottle {
    by_address: Mutex<HashMap<IpAddr, FailedLogins>>,
}

#[derive(Debug)]
struct FailedLogins {
    wrong: u32,
    last: Instant,
}

/// A wrong token, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedLogin {
    /// How long it waits for its answer.
    pub wait: Duration,
    /// The wrong tokens of its address, with it.
    pub wrong: u32,
}

impl FailedLogin {
    /// Whether it is worth a line in the log: the first, the second, the fourth … of an address.
    pub fn should_log(&self) -> bool {
        self.wrong.is_power_of_two()
    }
}

impl LoginThrottle {
    /// Counts a wrong token.
    pub fn record_failure(&self, address: IpAddr) -> FailedLogin {
        self.record_failure_at(network(address), Instant::now())
    }

    fn record_failure_at(&self, network: IpAddr, now: Instant) -> FailedLogin {
        // Nothing in here can panic half-way through a change.
        let mut guessers = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |guesser: &FailedLogins| now.saturating_duration_since(guesser.last) >= FORGET_AFTER;
        // Looking through all of them for each token would be work that a guesser can ask for.
        if guessers.len() >= MAX_REMEMBERED && !guessers.contains_key(&network) {
            guessers.retain(|_, guesser| !is_old(guesser));
            if guessers.len() >= MAX_REMEMBERED {
                return FailedLogin { wait: MAX_DELAY, wrong: u32::MAX };
            }
        }
        let guesser = guessers.entry(network).or_insert(FailedLogins { wrong: 0, last: now });
        if is_old(guesser) {
            guesser.wrong = 0;
        }
        let wait = INITIAL_DELAY.saturating_mul(1 << guesser.wrong.min(16)).min(MAX_DELAY);
        guesser.wrong = guesser.wrong.saturating_add(1);
        guesser.last = now;
        FailedLogin { wait, wrong: guesser.wrong }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_waits_longer_up_to_a_limit_and_others_do_not() {
        let guesses = LoginThrottle::default();
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let waits: Vec<_> = (0..8).map(|_| guesses.record_failure(one).wait.as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(guesses.record_failure(other), FailedLogin { wait: INITIAL_DELAY, wrong: 1 });
    }

    #[test]
    fn an_address_is_forgotten_after_a_while() {
        let (guesses, one, now) = (LoginThrottle::default(), "192.0.2.1".parse().unwrap(), Instant::now());
        guesses.record_failure_at(one, now);
        assert_eq!(guesses.record_failure_at(one, now + FORGET_AFTER).wait, INITIAL_DELAY);
        assert_eq!(guesses.record_failure_at(one, now + FORGET_AFTER).wait, 2 * INITIAL_DELAY);
    }

    #[test]
    fn no_more_addresses_are_remembered_than_there_is_room_for() {
        let (guesses, now) = (LoginThrottle::default(), Instant::now());
        for n in 0..2 * MAX_REMEMBERED as u32 {
            guesses.record_failure_at(Ipv4Addr::from_bits(n).into(), now);
        }
        assert_eq!(guesses.by_address.lock().unwrap().len(), MAX_REMEMBERED);
        let stranger = "192.0.2.1".parse().unwrap();
        assert_eq!(guesses.record_failure_at(stranger, now).wait, MAX_DELAY);
        assert_eq!(guesses.record_failure_at(stranger, now + FORGET_AFTER).wait, INITIAL_DELAY, "the others are forgotten");
    }
}
