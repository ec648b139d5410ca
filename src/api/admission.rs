//! Which connections may be open: at most so many in all, and of those that have sent no good token at most so many in all
//! and of one address.
//!
//! A new connection is always taken, for it may be the one with the right token: when there are too many, the one without a
//! token that is least likely to send one is closed ([`Stage`], then age). When all belong to clients with a token, a new one
//! gets a place of the reserve, which is for the operators' questions alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{accept::LogThrottle, proxies::network};
use crate::config;

/// Connections beyond `server.max_connections` that are answered what operators ask, and nothing else.
const OPERATOR_RESERVE: usize = 32;
/// Connections that are being closed, and still have their descriptor.
const CLOSING: usize = 32;
/// Descriptors that connections may have beyond `server.max_connections`.
pub const EXTRA_SOCKETS: usize = OPERATOR_RESERVE + CLOSING;

/// How far a connection without a good token has got; the first are closed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has sent a wrong token, and waits for its answer.
    WrongToken,
    /// It has not sent a whole request.
    Request,
    /// It is a WebSocket.
    NoToken,
    /// An HTTP request is being answered.
    Answer,
}

/// Older connections of a stage come first.
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
    /// All but those of the reserve.
    open: usize,
    without_token: Waiting,
    reserve: Waiting,
    /// Those of `without_token`, by network.
    by_address: HashMap<IpAddr, BTreeSet<Key>>,
    evicted: LogThrottle,
}

type Waiting = BTreeMap<Key, (Option<IpAddr>, CancellationToken)>;

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
                    "connections that have sent no token are closed to make room for new ones (server.max_unauthenticated_per_address, server.max_connections); if the address is a proxy's, add it to server.trusted_proxies"
                );
            });
        }
    }

    /// Closes the first connections of an address until it has fewer than `most`.
    fn make_room_of(&mut self, address: IpAddr, most: usize) {
        while let Some(keys) = self.by_address.get(&address)
            && keys.len() >= most
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
        // Nothing in here can panic half-way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more connection may be open at all, so that descriptors never run out.
    pub async fn socket(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.sockets).acquire_owned().await.ok()
    }

    /// Takes a new connection in. A trusted proxy's has no address until its request tells the client's.
    pub fn enter(self: &Arc<Self>, socket: OwnedSemaphorePermit, address: Option<IpAddr>) -> AdmissionGuard {
        let (address, closed) = (address.map(network), CancellationToken::new());
        let mut table = self.table();
        table.last_id += 1;
        let key = (Stage::Request, table.last_id);
        if let Some(address) = address {
            table.make_room_of(address, self.max_per_address);
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

/// A connection's place, until this is dropped.
#[derive(Debug)]
pub struct AdmissionGuard {
    admission: Arc<Admission>,
    state: Mutex<State>,
    closed: CancellationToken,
    _socket: OwnedSemaphorePermit,
}

impl AdmissionGuard {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the connection is to be closed to make room.
    pub async fn evicted(&self) {
        self.closed.cancelled().await;
    }

    /// Only what operators ask may be answered.
    pub fn is_of_reserve(&self) -> bool {
        matches!(*self.state(), State::Reserve(_))
    }

    /// How far the connection has got.
    pub fn reached(&self, stage: Stage) {
        let mut place = self.state();
        let mut table = self.admission.table();
        match &mut *place {
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

    /// The request has told the client's address.
    pub fn identify(&self, address: IpAddr) {
        let (address, state) = (network(address), self.state());
        let mut table = self.admission.table();
        if let State::WithoutToken(key) = *state
            && let Some((known, closed)) = table.remove(key)
        {
            if known != Some(address) {
                table.make_room_of(address, self.admission.max_per_address);
            }
            table.insert(key, Some(address), closed);
        }
    }

    /// The client has sent the right token: it is not closed any more, whatever others do.
    pub fn authenticate(&self) {
        let mut state = self.state();
        let mut table = self.admission.table();
        if let State::WithoutToken(key) = *state {
            if table.remove(key).is_none() {
                // It was to be closed in this moment; its place was given away, and it takes one more.
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

    fn evicted(places: &[AdmissionGuard]) -> Vec<usize> {
        (0..places.len()).filter(|n| places[*n].closed.is_cancelled()).collect()
    }

    #[test]
    fn of_one_address_the_oldest_goes_and_those_with_a_token_stay() {
        let admission = admission(100, 2);
        let mut places: Vec<_> = (0..3).map(|n| enter(&admission, &format!("2001:db8::{n}"))).collect();
        assert_eq!(evicted(&places), [0], "the network is one address");
        places[1].authenticate();
        places.extend((0..2).map(|_| enter(&admission, "2001:db8::9")));
        assert_eq!(evicted(&places), [0, 2]);
        places.push(enter(&admission, "192.0.2.1"));
        assert_eq!(evicted(&places), [0, 2]);
        drop(places);
        let table = admission.table();
        assert!(table.open == 0 && table.without_token.is_empty() && table.by_address.is_empty(), "{table:?}");
    }

    #[test]
    fn who_is_least_likely_to_send_the_right_token_goes_first() {
        let admission = admission(4, 100);
        let mut places: Vec<_> = (0..3).map(|_| enter(&admission, "192.0.2.1")).collect();
        places[0].reached(Stage::NoToken);
        places[2].reached(Stage::WrongToken);
        for expected in [vec![2], vec![1, 2], vec![1, 2, 3], vec![1, 2, 3, 4]] {
            places.push(enter(&admission, "192.0.2.2"));
            assert_eq!(evicted(&places), expected, "three of four places are for those without a token");
        }
    }

    #[test]
    fn when_all_have_a_token_there_is_the_reserve_for_whoever_came_last() {
        let admission = admission(2, 100);
        let authenticated: Vec<_> = (0..2)
            .map(|_| {
                let place = enter(&admission, "192.0.2.1");
                place.authenticate();
                place
            })
            .collect();
        let places: Vec<_> = (0..=OPERATOR_RESERVE).map(|_| enter(&admission, "192.0.2.1")).collect();
        assert!(places.iter().all(AdmissionGuard::is_of_reserve));
        assert_eq!((evicted(&places), evicted(&authenticated)), (vec![0], vec![]));
        drop((places, authenticated));
        assert!(!enter(&admission, "192.0.2.1").is_of_reserve());
    }

    #[test]
    fn a_client_behind_a_proxy_is_counted_once_it_is_known() {
        let admission = admission(100, 1);
        let places: Vec<_> =
            (0..3).map(|_| admission.enter(Arc::clone(&admission.sockets).try_acquire_owned().unwrap(), None)).collect();
        assert_eq!(evicted(&places), [0_usize; 0]);
        for (place, address) in places.iter().zip(["192.0.2.1", "192.0.2.2", "192.0.2.1"]) {
            place.identify(address.parse().unwrap());
            place.identify(address.parse().unwrap());
        }
        assert_eq!(evicted(&places), [0]);
    }
}
