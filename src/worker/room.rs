//! The places of a pool: how many are free is asked at the moment when a claim is made.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::mpsc::UnboundedSender;

/// How many jobs may be worked on at a time, and how many are.
#[derive(Debug)]
pub struct Room {
    places: usize,
    taken: AtomicUsize,
    /// Places that were ever taken: their numbers.
    numbers: AtomicU64,
    /// Store or broker are away, as far as the last job knows that got on or did not.
    outage: AtomicBool,
}

impl Room {
    pub fn new(places: usize) -> Self {
        Self { places, taken: AtomicUsize::new(0), numbers: AtomicU64::new(0), outage: AtomicBool::new(false) }
    }

    /// How many jobs may be worked on now. After an outage one at a time tries whether it is over: the others would only say
    /// the same.
    pub fn places(&self) -> usize {
        if self.outage.load(Ordering::Relaxed) { 1 } else { self.places }
    }

    pub fn free(&self) -> usize {
        self.places().saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    pub fn set_outage(&self, outage: bool) {
        self.outage.store(outage, Ordering::Relaxed);
    }

    /// Takes a place; its number goes to `left` when it is free again.
    pub fn take(self: &Arc<Self>, left: &UnboundedSender<u64>) -> Place {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Place { room: Arc::clone(self), number: self.numbers.fetch_add(1, Ordering::Relaxed), left: left.clone() }
    }
}

/// One job's place, free when this is dropped.
#[derive(Debug)]
pub struct Place {
    room: Arc<Room>,
    pub number: u64,
    left: UnboundedSender<u64>,
}

impl Place {
    pub fn room(&self) -> &Room {
        &self.room
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(1, Ordering::Relaxed);
        // An error means that the pool has stopped.
        let _ = self.left.send(self.number);
    }
}
