//! Steering tasks that exist: cancel, pause, resume, rate.

use std::num::NonZeroU32;

use super::{Queue, QueueError, TaskRow};
use crate::{
    store::Store,
    task::{Requester, TaskId},
};

/// A change to an unfinished task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// Cancels the queued jobs and asks the running ones to stop. The task finishes when the last
    /// job has stopped, so the counts of its final event are exact.
    Cancel,
    /// No job of the task is claimed until it is resumed, and the running ones are asked to stop.
    Pause,
    Resume,
    /// Sets the most rows a second of the whole task. The queue only stores it.
    Rate(Option<NonZeroU32>),
}

/// The result of steering a task.
#[derive(Debug, Clone)]
pub struct Steered {
    /// The task afterwards.
    pub task: TaskRow,
    /// The task was finished before; nothing was changed.
    pub already_finished: bool,
}

/// What the running jobs of an unfinished task have to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steering {
    pub task: TaskId,
    /// They stop for good.
    pub is_cancelled: bool,
    /// They stop and return to the queue.
    pub is_paused: bool,
    /// The most rows a second of all of them together.
    pub rate: Option<NonZeroU32>,
    /// The instances that share the rate, because they have running jobs of the task; at least one.
    /// Known in PostgreSQL only.
    pub instances: NonZeroU32,
}

impl Steering {
    /// The part of the rate that one instance may use: an equal one, at least a row a second.
    pub fn own_rate(&self) -> Option<NonZeroU32> {
        self.rate.map(|rate| NonZeroU32::new(rate.get() / self.instances).unwrap_or(NonZeroU32::MIN))
    }
}

impl Queue {
    /// Changes a task, and logs who asked for it if that is given. Durable when this returns, and
    /// harmless when repeated. Returns `None` if the task does not exist.
    ///
    /// # Errors
    /// The queue cannot be written; nothing was changed.
    pub async fn steer(&self, task: TaskId, steer: Steer, by: Option<Requester>) -> Result<Option<Steered>, QueueError> {
        let steered = self.inner.store.steer(task, steer, by).await?;
        self.inner.steering_changed.notify_one();
        if steer == Steer::Resume {
            self.inner.work.notify_one();
        }
        Ok(steered)
    }

    /// Cancels a task ([`Steer::Cancel`]).
    ///
    /// # Errors
    /// The queue cannot be written; nothing was changed.
    pub async fn cancel(&self, task: TaskId) -> Result<Option<Steered>, QueueError> {
        self.steer(task, Steer::Cancel, None).await
    }

    /// Waits until a task is steered in this process. Changes by other instances are only found by
    /// polling [`steering`](Self::steering).
    pub async fn steering_changed(&self) {
        self.inner.steering_changed.notified().await;
    }

    /// The unfinished tasks that are being cancelled, are paused, or have a rate.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn steering(&self) -> Result<Vec<Steering>, QueueError> {
        self.inner.store.steering().await
    }
}
