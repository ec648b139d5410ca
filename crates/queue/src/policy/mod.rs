//! The rules of the queue as pure functions, shared by every store: data in, data out. A store reads
//! what they need, and writes what they say, in one transaction.

pub mod claim;
pub mod crash;
pub mod job;
pub mod log;
pub mod task;
pub mod turns;

use std::time::Duration;

/// A duration in whole milliseconds, the unit of all times in the queue.
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
pub mod fixture {
    use std::sync::Arc;

    use chrono::DateTime;
    use uuid::Uuid;

    use crate::{
        Job, TaskRow,
        task::{Progress, TaskId, TaskState},
    };

    /// A running task.
    pub fn task() -> TaskRow {
        TaskRow {
            id: TaskId(Uuid::from_u128(7)),
            thing: Uuid::from_u128(8),
            topic: "t".to_owned(),
            from: DateTime::UNIX_EPOCH,
            to: DateTime::UNIX_EPOCH,
            state: TaskState::Running,
            last_seq: 0,
            created_at_ms: 1_000,
            cancel_requested: false,
            is_paused: false,
            rate: None,
            request_id: None,
            reason: None,
            requester: None,
            retry_of: None,
            finished_at_ms: None,
        }
    }

    /// A job of `task` with four published rows.
    pub fn job(task: TaskRow) -> Job {
        Job {
            id: 1,
            task: Arc::new(task),
            device: Uuid::from_u128(1),
            name: None,
            attempt: 1,
            owner: "one".into(),
            outages: 0,
            is_suspect: false,
            total: None,
            progress: Progress { position: None, published: 4, quarantined: 0, ..Progress::default() },
            layout: None,
        }
    }
}
