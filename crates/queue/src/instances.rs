//! The instances that work on a queue.

use std::sync::{Mutex, PoisonError};

use super::{Queue, QueueError};
use crate::store::Store;

/// An instance, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    /// The owner of its leases ([`Queue::owner`]).
    pub id: String,
    /// What is known of the process; in a queue in a file, nothing of others.
    pub process: Option<InstanceProcess>,
    /// It hands its jobs back, and claims no others.
    pub is_draining: bool,
    /// The jobs that it has leased.
    pub running: u64,
    /// The tasks that these belong to.
    pub tasks: u64,
}

/// The process of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceProcess {
    pub host: String,
    pub pid: u32,
    pub version: String,
    /// Milliseconds since 1970.
    pub started_at_ms: i64,
    /// Milliseconds since it last renewed its row.
    pub silent_ms: u64,
}

/// The place of this instance among those that are alive and not draining, as it was last seen. The
/// first one, until others are seen.
#[derive(Debug, Default)]
pub(crate) struct Place(Mutex<(u32, u32)>);

impl Place {
    /// `before` of the `others` come before this one, in an order that all agree on.
    pub fn set(&self, before: u32, others: u32) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (before, others);
    }

    /// An equal part of `total`. What cannot be shared equally goes to the first instances.
    pub fn part_of(&self, total: u32) -> u32 {
        let (before, others) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let instances = others.saturating_add(1);
        total / instances + u32::from(before < total % instances)
    }
}

/// The name of this machine.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Queue {
    /// The instances on this queue: those that are alive, or have leases.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn instances(&self) -> Result<Vec<InstanceRow>, QueueError> {
        self.inner.store.instances().await
    }

    /// Asks an instance to hand its jobs back and to claim no others, or to claim again. It does so
    /// within about a second. Returns whether there is such an instance; in a queue in a file, only
    /// this one can be asked.
    ///
    /// # Errors
    /// The queue cannot be written.
    pub async fn drain_instance(&self, id: &str, drains: bool) -> Result<bool, QueueError> {
        self.inner.store.drain_instance(id, drains).await
    }

    /// The part of this instance in something of which all instances together may use `total`: an
    /// equal one, by the instances that were alive a second ago. 0 if there are too many of them.
    pub fn part_of(&self, total: u32) -> u32 {
        self.inner.store.place().part_of(total)
    }

    /// Whether this instance was asked to hand its jobs back.
    pub fn is_draining(&self) -> bool {
        self.inner.store.is_draining()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_all_instances_add_up_to_the_total() {
        for (total, parts) in [(7, [3, 2, 2]), (6, [2, 2, 2]), (2, [1, 1, 0]), (0, [0, 0, 0])] {
            let part = |before| {
                let place = Place::default();
                place.set(before, 2);
                place.part_of(total)
            };
            assert_eq!([0, 1, 2].map(part), parts, "{total}");
        }
        assert_eq!(Place::default().part_of(7), 7, "alone");
    }
}
