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
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
const MOST: Duration = Duration::from_secs(5);
/// An address that has guessed nothing for so long begins anew.
const FORGET: Duration = Duration::from_mins(1);
/// Addresses that are remembered; while there are so many, those of further ones wait the longest.
const REMEMBERED: usize = 4_096;

/// What is known of the addresses that wrong tokens came from lately.
#[derive(Debug, Default)]
pub struct Guesses {
    by_address: Mutex<HashMap<IpAddr, Guesser>>,
}

#[derive(Debug)]
struct Guesser {
    wrong: u32,
    last: Instant,
}

/// A wrong token, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guess {
    /// How long it waits for its answer.
    pub wait: Duration,
    /// The wrong tokens of its address, with it.
    pub wrong: u32,
}

impl Guess {
    /// Whether it is worth a line in the log: the first, the second, the fourth … of an address.
    pub fn is_worth_telling(&self) -> bool {
        self.wrong.is_power_of_two()
    }
}

impl Guesses {
    /// Counts a wrong token.
    pub fn count(&self, address: IpAddr) -> Guess {
        self.count_at(network(address), Instant::now())
    }

    fn count_at(&self, network: IpAddr, now: Instant) -> Guess {
        // Nothing in here can panic half-way through a change.
        let mut guessers = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |guesser: &Guesser| now.saturating_duration_since(guesser.last) >= FORGET;
        // Looking through all of them for each token would be work that a guesser can ask for.
        if guessers.len() >= REMEMBERED && !guessers.contains_key(&network) {
            guessers.retain(|_, guesser| !is_old(guesser));
            if guessers.len() >= REMEMBERED {
                return Guess { wait: MOST, wrong: u32::MAX };
            }
        }
        let guesser = guessers.entry(network).or_insert(Guesser { wrong: 0, last: now });
        if is_old(guesser) {
            guesser.wrong = 0;
        }
        let wait = FIRST.saturating_mul(1 << guesser.wrong.min(16)).min(MOST);
        guesser.wrong = guesser.wrong.saturating_add(1);
        guesser.last = now;
        Guess { wait, wrong: guesser.wrong }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_waits_longer_up_to_a_limit_and_others_do_not() {
        let guesses = Guesses::default();
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let waits: Vec<_> = (0..8).map(|_| guesses.count(one).wait.as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(guesses.count(other), Guess { wait: FIRST, wrong: 1 });
    }

    #[test]
    fn an_address_is_forgotten_after_a_while() {
        let (guesses, one, now) = (Guesses::default(), "192.0.2.1".parse().unwrap(), Instant::now());
        guesses.count_at(one, now);
        assert_eq!(guesses.count_at(one, now + FORGET).wait, FIRST);
        assert_eq!(guesses.count_at(one, now + FORGET).wait, 2 * FIRST);
    }

    #[test]
    fn no_more_addresses_are_remembered_than_there_is_room_for() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for n in 0..2 * REMEMBERED as u32 {
            guesses.count_at(Ipv4Addr::from_bits(n).into(), now);
        }
        assert_eq!(guesses.by_address.lock().unwrap().len(), REMEMBERED);
        let stranger = "192.0.2.1".parse().unwrap();
        assert_eq!(guesses.count_at(stranger, now).wait, MOST);
        assert_eq!(guesses.count_at(stranger, now + FORGET).wait, FIRST, "the others are forgotten");
    }
}
