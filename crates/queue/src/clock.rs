//! Where the queue's time comes from.

use std::sync::{Arc, atomic::AtomicI64};

/// The source of the queue's time. Tests set it by hand.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The clocks of the operating system.
    #[default]
    System,
    /// The value of both clocks, in milliseconds since 1970.
    Manual(Arc<AtomicI64>),
}
