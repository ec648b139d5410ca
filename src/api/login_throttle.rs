//! Delays the answers to wrong tokens, by address: each one waits longer than the one before it.
//!
//! The right token never waits, even if others send wrong ones from the same address.
//!
//! This is not a rate limit, so it does not use `governor`: nothing is refused, and the delay grows
//! with each failure until an address has sent none for a while.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::proxies::network;

/// The delay of an address's first wrong token; each further one waits twice as long.
const INITIAL_DELAY: Duration = Duration::from_millis(100);
/// The longest delay.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// An address that has sent no wrong token for this long starts again with the shortest delay.
const FORGET_AFTER: Duration = Duration::from_mins(1);
/// The largest number of addresses to remember. Beyond it, unknown addresses get the longest delay.
const MAX_REMEMBERED: usize = 4_096;

/// The addresses that have sent wrong tokens lately.
#[derive(Debug, Default)]
pub struct LoginThrottle {
    by_address: Mutex<HashMap<IpAddr, FailedLogins>>,
}

#[derive(Debug)]
struct FailedLogins {
    wrong: u32,
    last: Instant,
}

/// The answer to a wrong token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedLogin {
    /// How long to delay the answer.
    pub wait: Duration,
    /// How many wrong tokens its address has sent, including this one.
    pub wrong: u32,
}

impl FailedLogin {
    /// Whether to log it: the first, second, fourth, eighth … of an address.
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
        // Nothing here panics while the lock is held, so a poisoned lock is consistent.
        let mut addresses = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |entry: &FailedLogins| now.saturating_duration_since(entry.last) >= FORGET_AFTER;
        // Scanning the whole map for every token would let an attacker cause that work at will.
        if addresses.len() >= MAX_REMEMBERED && !addresses.contains_key(&network) {
            addresses.retain(|_, entry| !is_old(entry));
            if addresses.len() >= MAX_REMEMBERED {
                return FailedLogin { wait: MAX_DELAY, wrong: u32::MAX };
            }
        }
        let entry = addresses.entry(network).or_insert(FailedLogins { wrong: 0, last: now });
        if is_old(entry) {
            entry.wrong = 0;
        }
        let wait = INITIAL_DELAY.saturating_mul(1 << entry.wrong.min(16)).min(MAX_DELAY);
        entry.wrong = entry.wrong.saturating_add(1);
        entry.last = now;
        FailedLogin { wait, wrong: entry.wrong }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_waits_longer_up_to_a_limit_and_others_do_not() {
        let throttle = LoginThrottle::default();
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let waits: Vec<_> = (0..8).map(|_| throttle.record_failure(one).wait.as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(throttle.record_failure(other), FailedLogin { wait: INITIAL_DELAY, wrong: 1 });
    }

    #[test]
    fn an_address_is_forgotten_after_a_while() {
        let (throttle, one, now) = (LoginThrottle::default(), "192.0.2.1".parse().unwrap(), Instant::now());
        throttle.record_failure_at(one, now);
        assert_eq!(throttle.record_failure_at(one, now + FORGET_AFTER).wait, INITIAL_DELAY);
        assert_eq!(throttle.record_failure_at(one, now + FORGET_AFTER).wait, 2 * INITIAL_DELAY);
    }

    #[test]
    fn the_number_of_remembered_addresses_is_limited() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        for n in 0..2 * MAX_REMEMBERED as u32 {
            throttle.record_failure_at(Ipv4Addr::from_bits(n).into(), now);
        }
        assert_eq!(throttle.by_address.lock().unwrap().len(), MAX_REMEMBERED);
        let stranger = "192.0.2.1".parse().unwrap();
        assert_eq!(throttle.record_failure_at(stranger, now).wait, MAX_DELAY);
        assert_eq!(throttle.record_failure_at(stranger, now + FORGET_AFTER).wait, INITIAL_DELAY, "the others are forgotten");
    }
}
