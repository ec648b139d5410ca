//! The instances that work on a queue.

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

    /// Whether this instance was asked to hand its jobs back.
    pub fn is_draining(&self) -> bool {
        self.inner.store.is_draining()
    }
}
