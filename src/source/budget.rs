//! The memory of rows that are read and not taken yet, bounded for all devices together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits count units of so many bytes, since a semaphore counts to 2³².
const UNIT: usize = 1_024;

/// Bytes that may be read ahead; clones share them.
#[derive(Clone)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    total: u32,
    waiting: Arc<AtomicUsize>,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        let total = units(bytes);
        Self { units: Arc::new(Semaphore::new(total as usize)), total, waiting: Arc::default() }
    }

    /// Waits for room for so many bytes, or for all there is.
    pub async fn reserve(&self, bytes: usize) -> Share {
        let units = units(bytes).min(self.total);
        if let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(units) {
            return Share(Some(permit));
        }
        let _waiting = WaitingGuard::new(&self.waiting);
        // Nobody closes the semaphore.
        Share(Arc::clone(&self.units).acquire_many_owned(units).await.ok())
    }

    /// Room for so many bytes, if it is there now.
    pub fn try_reserve(&self, bytes: usize) -> Option<Share> {
        let permit = Arc::clone(&self.units).try_acquire_many_owned(units(bytes).min(self.total)).ok()?;
        Some(Share(Some(permit)))
    }

    /// Whether somebody waits for room.
    pub fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Room for bytes; given back when it is dropped.
pub(super) struct Share(Option<OwnedSemaphorePermit>);

impl Share {
    /// Of no bytes.
    pub fn none() -> Self {
        Self(None)
    }

    /// The part of it that holds so many bytes; all of it where it is smaller.
    pub fn split(&mut self, bytes: usize) -> Self {
        let Some(permit) = &mut self.0 else { return Self(None) };
        let part = (units(bytes) as usize).min(permit.num_permits());
        Self(permit.split(part))
    }
}

/// Counts who waits, also when the wait is given up.
struct WaitingGuard<'a>(&'a AtomicUsize);

impl<'a> WaitingGuard<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 3).min(u32::MAX >> 3)
}
