//! A memory limit for rows that are read and not yet consumed, shared by all devices.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one semaphore permit: a semaphore's count is limited to 2³².
const UNIT_BYTES: usize = 1_024;

/// The bytes that may be read ahead; clones share them.
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

    /// Waits for memory; a request over the limit is cut to the limit.
    pub async fn reserve(&self, bytes: usize) -> MemoryPermit {
        let units = units(bytes).min(self.total);
        if let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(units) {
            return MemoryPermit(Some(permit));
        }
        let _waiting = WaitingGuard::new(&self.waiting);
        // The semaphore is never closed.
        MemoryPermit(Arc::clone(&self.units).acquire_many_owned(units).await.ok())
    }

    /// Reserves memory if it is free now.
    pub fn try_reserve(&self, bytes: usize) -> Option<MemoryPermit> {
        let permit = Arc::clone(&self.units).try_acquire_many_owned(units(bytes).min(self.total)).ok()?;
        Some(MemoryPermit(Some(permit)))
    }

    /// Whether another reader waits for memory.
    pub fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Reserved memory, released on drop.
pub(super) struct MemoryPermit(Option<OwnedSemaphorePermit>);

impl MemoryPermit {
    /// A permit for no bytes.
    pub fn none() -> Self {
        Self(None)
    }

    /// Splits off a permit for `bytes`, or everything if there is less.
    pub fn split(&mut self, bytes: usize) -> Self {
        let Some(permit) = &mut self.0 else { return Self(None) };
        let part = (units(bytes) as usize).min(permit.num_permits());
        Self(permit.split(part))
    }
}

/// Counts a waiter, also when its future is dropped.
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
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX >> 3).min(u32::MAX >> 3)
}
