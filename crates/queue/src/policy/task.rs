//! What a request and the end of its jobs mean for a task. Pure.

use uuid::Uuid;

use crate::{
    TaskRow,
    task::{Event, Failure, JobCounts, NewTask, Summary, TaskState},
};

/// The totals of a task whose jobs have all ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskTotals {
    pub jobs: JobCounts,
    /// Rows acknowledged by Kafka.
    pub published: u64,
    pub quarantined: u64,
    /// Rows sent and not acknowledged when their jobs were cancelled.
    pub unanswered: u64,
    /// Devices that succeeded and have no row in the range.
    pub empty: u64,
}

/// The last event and the final state of a task whose jobs have all ended. `failures` are its first
/// failed devices, at most [`MAX_NAMED`](crate::task::MAX_NAMED).
pub fn finish(task: &TaskRow, totals: TaskTotals, failures: Vec<Failure>, wall_ms: i64) -> (Event, TaskState) {
    let TaskTotals { jobs, published, quarantined, unanswered, empty } = totals;
    let summary = Summary {
        devices: jobs.into(),
        published,
        quarantined,
        unanswered,
        empty_devices: empty,
        // The wall clock may have been set back.
        took_ms: u64::try_from(wall_ms - task.created_at_ms).unwrap_or(0),
        failures,
    };
    (Event::Finished(summary), TaskState::of(jobs))
}

/// The fields, by their names in a request, in which a request differs from the task of an earlier
/// one.
pub fn differences(request: &NewTask, stored: &TaskRow, devices: &[Uuid]) -> Vec<&'static str> {
    let differs = [
        ("topic", request.topic != stored.topic),
        ("thingId", request.thing != stored.thing),
        ("devices", request.devices != devices),
        ("from", request.from != stored.from),
        ("to", request.to != stored.to),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::policy::fixture::task;

    #[test]
    fn a_task_ends_as_its_jobs_did() {
        let jobs = JobCounts { succeeded: 2, failed: 1, ..JobCounts::default() };
        let totals = TaskTotals { jobs, published: 7, empty: 1, ..TaskTotals::default() };
        let task = task();
        let (event, state) = finish(&task, totals, Vec::new(), task.created_at_ms + 5);
        assert_eq!(state, TaskState::Failed);
        let Event::Finished(summary) = event else { panic!("{event:?}") };
        assert_eq!((summary.devices.total(), summary.published, summary.empty_devices, summary.took_ms), (3, 7, 1, 5));
    }

    #[test]
    fn a_clock_that_was_set_back_gives_no_duration() {
        let task = task();
        let (event, _) = finish(&task, TaskTotals::default(), Vec::new(), task.created_at_ms - 1);
        assert!(matches!(event, Event::Finished(Summary { took_ms: 0, .. })));
    }

    #[test]
    fn each_field_that_differs_is_named() {
        let (task, devices) = (task(), [Uuid::from_u128(1), Uuid::from_u128(2)]);
        let same = NewTask {
            thing: task.thing,
            devices: devices.into(),
            topic: task.topic.clone(),
            from: task.from,
            to: task.to,
            request_id: None,
        };
        assert!(differences(&same, &task, &devices).is_empty());
        let later = DateTime::from_timestamp_millis(9).unwrap();
        let other = NewTask { topic: "other".to_owned(), from: later, ..same.clone() };
        assert_eq!(differences(&other, &task, &devices), ["topic", "from"]);
        let other = NewTask { thing: Uuid::from_u128(3), to: later, ..same.clone() };
        assert_eq!(differences(&other, &task, &devices), ["thingId", "to"]);
        let turned = [devices[1], devices[0]];
        assert_eq!(differences(&same, &task, &turned), ["devices"], "their order counts");
    }
}
