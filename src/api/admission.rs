//! Limits on open connections: in total, and for connections without a valid token also in total
//! and per client address.
//!
//! A new connection is always accepted, because it may have the right token. Over a limit, the
//! connection without a token that is least likely to send one is closed (by [`Stage`], then age).
//! If all connections have sent the token, a new one is admitted to the reserve, which only answers
//! the operators' HTTP endpoints.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{accept::LogThrottle, proxies::network};
use crate::config;

/// Connections beyond `server.max_connections` that only serve the operators' HTTP endpoints.
const OPERATOR_RESERVE: usize = 32;
/// File descriptors for connections that are being closed.
const CLOSING_RESERVE: usize = 32;
/// File descriptors of connections beyond `server.max_connections`.
pub const EXTRA_SOCKETS: usize = OPERATOR_RESERVE + CLOSING_RESERVE;

/// The progress of a connection without a valid token; lower stages are closed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has sent a wrong token, and waits for the reply.
    WrongToken,
    /// It has not sent a complete request.
    Request,
    /// It is a WebSocket that has sent no token.
    NoToken,
    /// Its HTTP request is being answered.
    Answer,
}

/// Sorted by stage, then by age.
type Key = (Stage, u64);

#[derive(Debug)]
pub struct Admission {
    table: Mutex<Table>,
    sockets: Arc<Semaphore>,
    max: usize,
    max_without_token: usize,
    max_per_address: usize,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    /// Open connections outside the reserve.
    open: usize,
    without_token: Waiters,
    reserve: Waiters,
    /// The keys in `without_token`, by network.
    by_address: HashMap<IpAddr, BTreeSet<Key>>,
    evicted: LogThrottle,
}

type Waiters = BTreeMap<Key, (Option<IpAddr>, CancellationToken)>;

impl Table {
    fn remove(&mut self, key: Key) -> Option<(Option<IpAddr>, CancellationToken)> {
        let (address, closed) = self.without_token.remove(&key)?;
        if let Some(address) = address
            && let Some(keys) = self.by_address.get_mut(&address)
        {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some((address, closed))
    }

    fn insert(&mut self, key: Key, address: Option<IpAddr>, closed: CancellationToken) {
        self.without_token.insert(key, (address, closed));
        if let Some(address) = address {
            self.by_address.entry(address).or_default().insert(key);
        }
    }

    /// Closes a connection without a token.
    fn evict(&mut self, key: Key) {
        if let Some((address, closed)) = self.remove(key) {
            self.open -= 1;
            closed.cancel();
            self.evicted.log(|times| {
                let address = address.map(tracing::field::display);
                tracing::warn!(
                    address,
                    times,
                    "connections without a token are closed in favour of new ones (server.max_unauthenticated_per_address, server.max_connections); if the address is a proxy's, add it to server.trusted_proxies"
                );
            });
        }
    }

    /// Closes connections of an address until it has fewer than `limit`.
    fn evict_until_below(&mut self, address: IpAddr, limit: usize) {
        while let Some(keys) = self.by_address.get(&address)
            && keys.len() >= limit
            && let Some(first) = keys.first().copied()
        {
            self.evict(first);
        }
    }
}

impl Admission {
    pub fn new(config: &config::Server) -> Arc<Self> {
        let max = config.max_connections;
        Arc::new(Self {
            table: Mutex::default(),
            sockets: Arc::new(Semaphore::new(max + EXTRA_SOCKETS)),
            max,
            max_without_token: (max - max / 4).max(1),
            max_per_address: config.max_unauthenticated_per_address,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code panics in the middle of a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a free file descriptor, so that they never run out.
    pub async fn socket(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.sockets).acquire_owned().await.ok()
    }

    /// Admits a new connection. Behind a trusted proxy, the client's address is unknown until the
    /// request arrives.
    pub fn enter(self: &Arc<Self>, socket: OwnedSemaphorePermit, address: Option<IpAddr>) -> AdmissionGuard {
        let (address, closed) = (address.map(network), CancellationToken::new());
        let mut table = self.table();
        table.last_id += 1;
        let key = (Stage::Request, table.last_id);
        if let Some(address) = address {
            table.evict_until_below(address, self.max_per_address);
        }
        if (table.without_token.len() >= self.max_without_token || table.open >= self.max)
            && let Some(first) = table.without_token.keys().next().copied()
        {
            table.evict(first);
        }
        let state = if table.open < self.max {
            table.open += 1;
            table.insert(key, address, closed.clone());
            State::WithoutToken(key)
        } else {
            if table.reserve.len() >= OPERATOR_RESERVE
                && let Some((_, (_, oldest))) = table.reserve.pop_first()
            {
                oldest.cancel();
            }
            table.reserve.insert(key, (None, closed.clone()));
            State::Reserve(key)
        };
        drop(table);
        AdmissionGuard { admission: Arc::clone(self), state: Mutex::new(state), closed, _socket: socket }
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    WithoutToken(Key),
    WithToken,
    Reserve(Key),
}

/// The admission of a connection, until this is dropped.
#[derive(Debug)]
pub struct AdmissionGuard {
    admission: Arc<Admission>,
    state: Mutex<State>,
    closed: CancellationToken,
    _socket: OwnedSemaphorePermit,
}

impl AdmissionGuard {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics in the middle of a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the connection must be closed in favour of another.
    pub async fn evicted(&self) {
        self.closed.cancelled().await;
    }

    /// Whether only the operators' endpoints may be answered.
    pub fn is_in_reserve(&self) -> bool {
        matches!(*self.state(), State::Reserve(_))
    }

    /// Whether the client has sent a valid token.
    pub fn is_authenticated(&self) -> bool {
        matches!(*self.state(), State::WithToken)
    }

    /// Sets the stage of the connection.
    pub fn reached(&self, stage: Stage) {
        let mut guard_state = self.state();
        let mut table = self.admission.table();
        match &mut *guard_state {
            State::WithoutToken(key) => {
                if let Some((address, closed)) = table.remove(*key) {
                    key.0 = stage;
                    table.insert(*key, address, closed);
                }
            }
            State::Reserve(key) => {
                if let Some(entry) = table.reserve.remove(key) {
                    key.0 = stage;
                    table.reserve.insert(*key, entry);
                }
            }
            State::WithToken => {}
        }
    }

    /// Sets the client's address, from the request.
    pub fn identify(&self, address: IpAddr) {
        let (address, state) = (network(address), self.state());
        let mut table = self.admission.table();
        if let State::WithoutToken(key) = *state
            && let Some((old_address, closed)) = table.remove(key)
        {
            if old_address != Some(address) {
                table.evict_until_below(address, self.admission.max_per_address);
            }
            table.insert(key, Some(address), closed);
        }
    }

    /// Marks the connection as authenticated: it is no longer closed in favour of others.
    pub fn authenticate(&self) {
        let mut state = self.state();
        let mut table = self.admission.table();
        if let State::WithoutToken(key) = *state {
            if table.remove(key).is_none() {
                // It was evicted at this moment, so `open` does not include it any more.
                table.open += 1;
            }
            *state = State::WithToken;
        }
    }
}

impl Drop for AdmissionGuard {
    fn drop(&mut self) {
        let state = *self.state();
        let mut table = self.admission.table();
        match state {
            State::WithoutToken(key) => {
                if table.remove(key).is_some() {
                    table.open -= 1;
                }
            }
            State::WithToken => table.open -= 1,
            State::Reserve(key) => {
                table.reserve.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(max: usize, per_address: usize) -> Arc<Admission> {
        let mut config = config::load(None, std::iter::empty(), config::Overrides::default()).unwrap().server;
        (config.max_connections, config.max_unauthenticated_per_address) = (max, per_address);
        Admission::new(&config)
    }

    fn enter(admission: &Arc<Admission>, address: &str) -> AdmissionGuard {
        let socket = Arc::clone(&admission.sockets).try_acquire_owned().unwrap();
        admission.enter(socket, Some(address.parse().unwrap()))
    }

    fn evicted(guards: &[AdmissionGuard]) -> Vec<usize> {
        (0..guards.len()).filter(|n| guards[*n].closed.is_cancelled()).collect()
    }

    #[test]
    fn the_oldest_connection_of_an_address_is_evicted_unless_it_has_a_token() {
        let admission = admission(100, 2);
        let mut guards: Vec<_> = (0..3).map(|n| enter(&admission, &format!("2001:db8::{n}"))).collect();
        assert_eq!(evicted(&guards), [0], "the network is one address");
        guards[1].authenticate();
        guards.extend((0..2).map(|_| enter(&admission, "2001:db8::9")));
        assert_eq!(evicted(&guards), [0, 2]);
        guards.push(enter(&admission, "192.0.2.1"));
        assert_eq!(evicted(&guards), [0, 2]);
        drop(guards);
        let table = admission.table();
        assert!(table.open == 0 && table.without_token.is_empty() && table.by_address.is_empty(), "{table:?}");
    }

    #[test]
    fn the_lowest_stage_is_evicted_first() {
        let admission = admission(4, 100);
        let mut guards: Vec<_> = (0..3).map(|_| enter(&admission, "192.0.2.1")).collect();
        guards[0].reached(Stage::NoToken);
        guards[2].reached(Stage::WrongToken);
        for expected in [vec![2], vec![1, 2], vec![1, 2, 3], vec![1, 2, 3, 4]] {
            guards.push(enter(&admission, "192.0.2.2"));
            assert_eq!(evicted(&guards), expected, "three quarters of the connections may be without a token");
        }
    }

    #[test]
    fn when_all_have_a_token_the_newest_connections_use_the_reserve() {
        let admission = admission(2, 100);
        let authenticated: Vec<_> = (0..2)
            .map(|_| {
                let guard_state = enter(&admission, "192.0.2.1");
                guard_state.authenticate();
                guard_state
            })
            .collect();
        let guards: Vec<_> = (0..=OPERATOR_RESERVE).map(|_| enter(&admission, "192.0.2.1")).collect();
        assert!(guards.iter().all(AdmissionGuard::is_in_reserve));
        assert_eq!((evicted(&guards), evicted(&authenticated)), (vec![0], vec![]));
        drop((guards, authenticated));
        assert!(!enter(&admission, "192.0.2.1").is_in_reserve());
    }

    #[test]
    fn a_client_behind_a_proxy_is_counted_once_its_address_is_known() {
        let admission = admission(100, 1);
        let guards: Vec<_> =
            (0..3).map(|_| admission.enter(Arc::clone(&admission.sockets).try_acquire_owned().unwrap(), None)).collect();
        assert_eq!(evicted(&guards), [0_usize; 0]);
        for (guard_state, address) in guards.iter().zip(["192.0.2.1", "192.0.2.2", "192.0.2.1"]) {
            guard_state.identify(address.parse().unwrap());
            guard_state.identify(address.parse().unwrap());
        }
        assert_eq!(evicted(&guards), [0]);
    }
}
