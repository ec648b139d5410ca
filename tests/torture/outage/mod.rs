//! Outages of PostgreSQL and Kafka while a task runs, longer than a lease and all timeouts: the
//! task waits, logs which dependency is unavailable, and completes after the outage.
//!
//! The servers are the real ones of this checkout (`scripts/services`), so these tests run one at a
//! time.

mod kafka;
pub mod log_checks;
mod postgres;
pub mod proxy;
mod scenario;
mod services;
mod topic;
pub mod verify;

pub use scenario::{Scenario, TaskSetup, generate_rows};
pub use services::{Outage, are_private};

use std::time::Duration;

/// The duration of an outage: several times the lease and the timeouts of a [`Scenario`].
pub const OUTAGE_DURATION: Duration = Duration::from_secs(12);
