//! What the service needs is taken away in the middle of a patch, for longer than a lease and every time-out, and given
//! back: the task waits, says who is away, and ends whole.
//!
//! The parts are the real ones of this checkout (`scripts/services`), so these tests run one at a time.

mod kafka;
mod parts;
mod postgres;
mod proxy;
mod scene;
pub mod told;
mod topic;

pub use parts::{Away, are_ours};
pub use scene::{Patch, Scene, fill};

use std::time::Duration;

/// How long a part is away: longer than the lease and the time-outs that a [`Scene`] sets, several times over.
pub const AWAY: Duration = Duration::from_secs(12);
