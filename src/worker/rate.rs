//! The rates of tasks: the most rows a second that all running jobs of a task send together.
//!
//! Rows are spread evenly (a virtual schedule, GCRA): the n-th row of a busy task is due n / rate
//! seconds after the first. A task that was slower than its rate catches up by at most [`BURST`].

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{queue::Steering, task::TaskId};

/// Rows of this time may be sent at once.
const BURST: Duration = Duration::from_millis(100);
/// A schedule that no job uses is kept for this long, since the jobs of a task follow one another.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(10);

/// The schedule of one task.
#[derive(Debug)]
pub struct TaskRate {
    schedule: Mutex<Schedule>,
    /// Notified when the rate changes.
    changed: Notify,
}

#[derive(Debug)]
struct Schedule {
    rate: Option<NonZeroU32>,
    /// When the next row is due.
    next: Instant,
}

impl Schedule {
    /// How many of `rows` rows may be sent at `now`, or when to ask again.
    fn take(&mut self, rows: usize, now: Instant) -> Result<usize, Instant> {
        let Some(rate) = self.rate else { return Ok(rows) };
        let interval = Duration::from_secs(1) / rate.get();
        self.next = self.next.max(now.checked_sub(BURST).unwrap_or(now));
        if self.next > now {
            return Err(self.next);
        }
        let due = (now - self.next).as_nanos() / interval.as_nanos().max(1) + 1;
        let taken = rows.min(usize::try_from(due).unwrap_or(usize::MAX));
        self.next += interval.saturating_mul(u32::try_from(taken).unwrap_or(u32::MAX));
        Ok(taken)
    }
}

impl TaskRate {
    fn new(rate: Option<NonZeroU32>) -> Self {
        Self { schedule: Mutex::new(Schedule { rate, next: Instant::now() }), changed: Notify::new() }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        // No code panics while it holds this lock.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, rate: Option<NonZeroU32>) {
        let mut schedule = self.schedule();
        if schedule.rate != rate {
            (schedule.rate, schedule.next) = (rate, Instant::now());
            self.changed.notify_waiters();
        }
    }

    /// Waits until some of `rows` rows may be sent, and returns how many. Cancel-safe.
    pub async fn take(&self, rows: usize) -> usize {
        loop {
            let changed = self.changed.notified();
            let due = match self.schedule().take(rows, Instant::now()) {
                Ok(taken) => return taken,
                Err(due) => due,
            };
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                () = changed => {}
            }
        }
    }
}

/// The schedules of the tasks with running jobs.
#[derive(Debug, Default)]
pub struct TaskRates {
    by_task: Mutex<HashMap<TaskId, (Arc<TaskRate>, Instant)>>,
}

impl TaskRates {
    fn by_task(&self) -> MutexGuard<'_, HashMap<TaskId, (Arc<TaskRate>, Instant)>> {
        // No code panics while it holds this lock.
        self.by_task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The schedule of a task. `rate` is what the queue said when its job was claimed: the rate of
    /// the first moments, before [`update`](Self::update) knows how many instances share it.
    pub fn of(&self, task: TaskId, rate: Option<NonZeroU32>) -> Arc<TaskRate> {
        let mut tasks = self.by_task();
        let (schedule, used_at) = tasks.entry(task).or_insert_with(|| (Arc::new(TaskRate::new(rate)), Instant::now()));
        *used_at = Instant::now();
        Arc::clone(schedule)
    }

    /// Applies the rates that the queue has now. Tasks that are not listed have none.
    pub fn update(&self, steering: &[Steering]) {
        let mut tasks = self.by_task();
        for (task, (schedule, used_at)) in tasks.iter_mut() {
            schedule.set(steering.iter().find(|steering| steering.task == *task).and_then(Steering::own_rate));
            if Arc::strong_count(schedule) > 1 {
                *used_at = Instant::now();
            }
        }
        tasks.retain(|_, (_, used_at)| used_at.elapsed() < UNUSED_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows sent at a rate within a time, by a job that always has rows and asks each `step`.
    fn sent(rate: u32, time: Duration, step: Duration, at_once: usize) -> usize {
        let start = Instant::now();
        let mut schedule = Schedule { rate: NonZeroU32::new(rate), next: start };
        let (mut now, mut rows) = (start, 0);
        while now < start + time {
            match schedule.take(at_once, now) {
                Ok(taken) => rows += taken,
                Err(due) => now = due.max(now + step),
            }
        }
        rows
    }

    #[test]
    #[allow(clippy::cast_precision_loss)]
    fn a_rate_is_kept_whatever_the_timer_and_the_batches() {
        for rate in [1, 7, 500, 10_000, 250_000] {
            for step in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(15)] {
                for at_once in [1, 300, 20_000] {
                    let rows = sent(rate, Duration::from_secs(10), step, at_once) as f64;
                    let expected = f64::from(rate) * 10.0;
                    assert!((rows - expected).abs() <= expected * 0.05 + 1.0, "{rate}, {step:?}, {at_once}: {rows}");
                }
            }
        }
    }

    #[test]
    fn a_burst_after_a_pause_is_a_tenth_of_a_second_at_most() {
        let start = Instant::now();
        let mut schedule = Schedule { rate: NonZeroU32::new(1_000), next: start };
        let taken = schedule.take(50_000, start + Duration::from_mins(1)).unwrap();
        assert!((100..=101).contains(&taken), "{taken}");
        assert!(schedule.take(1, start + Duration::from_mins(1)).is_err());
    }

    #[test]
    fn without_a_rate_all_rows_may_be_sent() {
        let mut schedule = Schedule { rate: None, next: Instant::now() };
        assert_eq!(schedule.take(50_000, Instant::now()), Ok(50_000));
    }

    #[tokio::test]
    async fn a_job_that_waits_takes_notice_of_a_new_rate() {
        let rates = TaskRates::default();
        let task = TaskId::new();
        let rate = rates.of(task, NonZeroU32::new(1));
        assert_eq!(rate.take(9).await, 1);
        let waiting = tokio::spawn({
            let rate = Arc::clone(&rate);
            async move { rate.take(9).await }
        });
        tokio::task::yield_now().await;
        rates.update(&[]);
        assert_eq!(waiting.await.unwrap(), 9);
    }
}
