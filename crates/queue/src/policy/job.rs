//! What an update of a job writes. Pure.

use crate::{
    Job,
    lease::{DeviceCount, JobUpdate},
    task::{Event, IllegalChange, JobChange, JobState, Progress},
};

/// The columns that a lease holder changes. `None` keeps the present value.
#[derive(Debug, Default, PartialEq)]
pub struct JobWrite<'a> {
    pub name: Option<&'a str>,
    pub total: Option<u64>,
    pub progress: Option<&'a Progress>,
    /// The source layout of the position. Written only together with a position.
    pub layout: Option<&'a str>,
    /// Consecutive outages. Writing this proves that the worker is alive, so it resets `crashes`
    /// and `suspected`.
    pub outages: Option<u32>,
    pub reason: Option<&'a str>,
    /// Set when a lease is renewed: it may have been ended for a crash that was none, because its
    /// holder was frozen, and belongs to the holder again.
    pub owner: Option<&'a str>,
    /// Whether the job waits for the source or Kafka.
    pub waiting: Option<bool>,
    /// Rows sent and not acknowledged.
    pub unanswered: Option<u64>,
    /// Rows a second.
    pub rows_per_second: Option<f64>,
}

/// What an update writes, on the condition that its attempt still has the lease.
#[derive(Debug, PartialEq)]
pub struct Transition<'a> {
    pub state: JobState,
    /// When the job may be claimed (again): the end of the lease, or of the wait. `None` if it has
    /// ended.
    pub due_at: Option<i64>,
    pub columns: JobWrite<'a>,
}

/// Whether the update becomes a cancellation if the task is being cancelled: the worker returns the
/// job to the queue, and does not know yet that nobody is to continue it.
pub fn yields_to_cancellation(update: &JobUpdate) -> bool {
    matches!(update.change, Some((JobChange::Retry | JobChange::Release, _)))
}

/// What `update` writes. The lease is renewed until `until_ms`.
///
/// # Errors
/// A running job does not allow the change.
pub fn transition<'a>(
    job: &'a Job,
    update: &'a JobUpdate,
    is_cancelling: bool,
    now_ms: i64,
    until_ms: i64,
) -> Result<Transition<'a>, IllegalChange> {
    let change = if is_cancelling && yields_to_cancellation(update) { Some((JobChange::Cancel, None)) } else { update.change };
    let (state, due_at) = match change {
        None => (JobState::Running, Some(until_ms)),
        Some((change, wait)) => (JobState::Running.after(change)?, wait.map(|wait| now_ms + super::millis(wait))),
    };
    let has_progressed = update.progress.as_ref().is_some_and(|progress| job.has_progressed(progress));
    let columns = JobWrite {
        name: update.counted.as_ref().and_then(|counted| counted.name.as_deref()),
        total: update.counted.as_ref().map(|counted| counted.total),
        progress: update.progress.as_ref(),
        layout: update.layout.as_deref(),
        outages: match change {
            Some((JobChange::Retry, _)) => Some(job.next_outage_count(has_progressed)),
            None if !has_progressed => None,
            _ => Some(0),
        },
        reason: update.reason.as_deref(),
        owner: (state == JobState::Running).then_some(&*job.owner),
        waiting: update.waiting.or(change.is_some().then_some(false)),
        unanswered: update.unanswered,
        rows_per_second: update.rows_per_second,
    };
    Ok(Transition { state, due_at, columns })
}

/// The events that are logged with `update`, in order.
pub fn events(job: &Job, update: &JobUpdate) -> Vec<Event> {
    // Two more: the count, and the end of the task.
    let mut events = Vec::with_capacity(update.events.len() + 2);
    if let Some(DeviceCount { name, total }) = &update.counted {
        events.push(Event::Counted { device: job.device, name: name.clone(), total: *total });
    }
    events.extend(update.events.iter().cloned());
    events
}

/// Why a job ends whose row cannot be read. It must not keep other jobs from being claimed.
pub fn unreadable_reason(id: i64, error: &dyn std::error::Error) -> String {
    format!("its entry in the queue (job {id}) cannot be read: {error}. Submit the device again")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        Checkpoint,
        policy::fixture::{job, task},
        task::Position,
    };

    const NOW: i64 = 1_000;
    const UNTIL: i64 = 9_000;

    fn checkpoint(published: u64) -> Checkpoint {
        let position = Some(Position { time_us: 1, key: "k".to_owned().into() });
        Checkpoint { progress: Progress { position, published, quarantined: 0, ..Progress::default() }, ..Checkpoint::default() }
    }

    fn update(change: Option<JobChange>, published: u64) -> JobUpdate {
        let wait = match change {
            Some(JobChange::Retry) => Some(Duration::from_secs(3)),
            Some(JobChange::Release) => Some(Duration::ZERO),
            _ => None,
        };
        JobUpdate { change: change.map(|change| (change, wait)), ..checkpoint(published).into() }
    }

    /// State and due time after a change.
    fn after(change: Option<JobChange>, is_cancelling: bool) -> (JobState, Option<i64>) {
        let update = update(change, 4);
        let job = job(task());
        let transition = transition(&job, &update, is_cancelling, NOW, UNTIL).unwrap();
        (transition.state, transition.due_at)
    }

    #[test]
    fn a_change_gives_the_state_and_the_due_time() {
        assert_eq!(after(None, false), (JobState::Running, Some(UNTIL)));
        assert_eq!(after(Some(JobChange::Retry), false), (JobState::Queued, Some(NOW + 3_000)));
        assert_eq!(after(Some(JobChange::Release), false), (JobState::Queued, Some(NOW)));
        assert_eq!(after(Some(JobChange::Succeed), false), (JobState::Succeeded, None));
        assert_eq!(after(Some(JobChange::Fail), false), (JobState::Failed, None));
        assert_eq!(after(Some(JobChange::Cancel), false), (JobState::Cancelled, None));
    }

    #[test]
    fn a_job_of_a_task_that_is_being_cancelled_does_not_return_to_the_queue() {
        for change in [JobChange::Retry, JobChange::Release] {
            assert_eq!(after(Some(change), true), (JobState::Cancelled, None));
        }
        // What its worker has done counts.
        assert_eq!(after(Some(JobChange::Succeed), true), (JobState::Succeeded, None));
        assert_eq!(after(None, true), (JobState::Running, Some(UNTIL)));
    }

    #[test]
    fn only_progress_or_a_change_proves_that_the_worker_is_alive() {
        let mut job = job(task());
        job.outages = 2;
        let outages = |change, published| {
            let update = update(change, published);
            transition(&job, &update, false, NOW, UNTIL).unwrap().columns.outages
        };
        assert_eq!(outages(None, 4), None, "a renewal alone says nothing");
        assert_eq!(outages(None, 5), Some(0));
        assert_eq!(outages(Some(JobChange::Release), 4), Some(0));
        assert_eq!(outages(Some(JobChange::Retry), 4), Some(3));
        assert_eq!(outages(Some(JobChange::Retry), 5), Some(1), "the outages before are over");
    }

    #[test]
    fn a_job_that_leaves_its_worker_does_not_wait_any_more() {
        let waiting = |change, waiting| {
            let update = JobUpdate { waiting, ..update(change, 4) };
            transition(&job(task()), &update, false, NOW, UNTIL).unwrap().columns.waiting
        };
        assert_eq!(waiting(None, None), None);
        assert_eq!(waiting(None, Some(true)), Some(true));
        assert_eq!(waiting(Some(JobChange::Release), None), Some(false));
    }

    #[test]
    fn the_count_is_logged_before_the_other_events() {
        let job = job(task());
        let counted = Some(DeviceCount { name: Some("水".to_owned()), total: 3 });
        let published = Event::Published { device: job.device, published: 3, total: 3 };
        let update = JobUpdate { counted, events: vec![published.clone()], ..JobUpdate::default() };
        let counted = Event::Counted { device: job.device, name: Some("水".to_owned()), total: 3 };
        assert_eq!(events(&job, &update), [counted, published]);
    }
}
