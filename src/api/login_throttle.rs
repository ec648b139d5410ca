//! Delays the replies to wrong tokens, by address. The delay doubles with each failure, up to a
//! limit.
//!
//! The right token is never delayed, even if others send wrong ones from the same address.
//!
//! This is not a rate limit, so it does not use `governor`: nothing is rejected, and the delay is
//! reset when an address has sent no wrong token for a while.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::proxies::network;

/// The delay of an address's first wrong token; each further one doubles it.
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
    attempts: u32,
    last: Instant,
}

/// The delay of one reply to a wrong token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedLogin {
    /// How long to delay the reply.
    pub delay: Duration,
    /// How many wrong tokens its address has sent, including this one.
    pub attempts: u32,
}

impl FailedLogin {
    /// Whether to log it: the first, second, fourth, eighth … of an address.
    pub fn should_log(&self) -> bool {
        self.attempts.is_power_of_two()
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
                return FailedLogin { delay: MAX_DELAY, attempts: u32::MAX };
            }
        }
        let entry = addresses.entry(network).or_insert(FailedLogins { attempts: 0, last: now });
        if is_old(entry) {
            entry.attempts = 0;
        }
        let delay = INITIAL_DELAY.saturating_mul(1 << entry.attempts.min(16)).min(MAX_DELAY);
        entry.attempts = entry.attempts.saturating_add(1);
        entry.last = now;
        FailedLogin { delay, attempts: entry.attempts }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_delay_of_one_address_doubles_up_to_a_limit() {
        let throttle = LoginThrottle::default();
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let delays: Vec<_> = (0..8).map(|_| throttle.record_failure(one).delay.as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(throttle.record_failure(other), FailedLogin { delay: INITIAL_DELAY, attempts: 1 });
    }

    #[test]
    fn an_address_is_forgotten_after_a_while() {
        let (throttle, one, now) = (LoginThrottle::default(), "192.0.2.1".parse().unwrap(), Instant::now());
        throttle.record_failure_at(one, now);
        assert_eq!(throttle.record_failure_at(one, now + FORGET_AFTER).delay, INITIAL_DELAY);
        assert_eq!(throttle.record_failure_at(one, now + FORGET_AFTER).delay, 2 * INITIAL_DELAY);
    }

    #[test]
    fn the_number_of_remembered_addresses_is_limited() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        for n in 0..2 * MAX_REMEMBERED as u32 {
            throttle.record_failure_at(Ipv4Addr::from_bits(n).into(), now);
        }
        assert_eq!(throttle.by_address.lock().unwrap().len(), MAX_REMEMBERED);
        let unknown = "192.0.2.1".parse().unwrap();
        assert_eq!(throttle.record_failure_at(unknown, now).delay, MAX_DELAY);
        assert_eq!(throttle.record_failure_at(unknown, now + FORGET_AFTER).delay, INITIAL_DELAY, "the others are forgotten");
    }
}
