//! Where the queue's time comes from.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use chrono::Utc;

/// The source of the queue's time. Tests set it by hand.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The clocks of the operating system.
    #[default]
    System,
    /// The value of both clocks, in milliseconds since 1970.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The wall-clock time in milliseconds since 1970.
    pub(crate) fn wall_ms(&self) -> i64 {
        self.manual_ms().unwrap_or_else(|| Utc::now().timestamp_millis())
    }

    /// The time that was set by hand.
    pub(crate) fn manual_ms(&self) -> Option<i64> {
        match self {
            Self::System => None,
            Self::Manual(now) => Some(now.load(Ordering::SeqCst)),
        }
    }
}
