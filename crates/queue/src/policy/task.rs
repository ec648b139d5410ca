//! What a request and the end of its jobs mean for a task. Pure.

use uuid::Uuid;

use crate::{
    Steer, TaskRow, TaskTotals,
    task::{Event, Failure, NewTask, Requester, Summary, TaskState},
};

/// The last event and the final state of a task whose jobs have all ended. `failures` are its first
/// failed devices, at most [`MAX_NAMED`](crate::task::MAX_NAMED).
pub fn finish(task: &TaskRow, totals: TaskTotals, failures: Vec<Failure>, wall_ms: i64) -> (Event, TaskState) {
    let TaskTotals { jobs, published, quarantined, unanswered, empty, .. } = totals;
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
        ("reason", request.reason != stored.reason),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

/// What is written when a task is steered: the task afterwards, and the event to log. `None` if
/// nothing changes, because the task is finished, or is as it is asked for.
pub fn steer(task: &TaskRow, steer: Steer, by: Option<Requester>) -> Option<(TaskRow, Option<Event>)> {
    let changes = match steer {
        Steer::Cancel => !task.cancel_requested,
        // A task that is being cancelled is not to go on.
        Steer::Pause => !task.is_paused && !task.cancel_requested,
        Steer::Resume => task.is_paused,
        Steer::Rate(rate) => task.rate != rate,
    };
    if task.state.is_final() || !changes {
        return None;
    }
    let mut after = task.clone();
    match steer {
        Steer::Cancel => (after.cancel_requested, after.is_paused) = (true, false),
        Steer::Pause => after.is_paused = true,
        Steer::Resume => after.is_paused = false,
        Steer::Rate(rate) => after.rate = rate,
    }
    let event = by.map(|by| match steer {
        Steer::Cancel => Event::CancelRequested { by },
        Steer::Pause => Event::Paused { by },
        Steer::Resume => Event::Resumed { by },
        Steer::Rate(rate) => Event::RateChanged { by, rate },
    });
    Some((after, event))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use chrono::DateTime;

    use super::*;
    use crate::{policy::fixture::task, task::JobCounts};

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
            reason: None,
            rate: None,
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

    #[test]
    fn steering_a_task_again_changes_nothing() {
        let rate = Steer::Rate(NonZeroU32::new(5));
        for change in [Steer::Cancel, Steer::Pause, rate] {
            let (after, event) = steer(&task(), change, None).expect("it changes");
            assert!(event.is_none() && steer(&after, change, None).is_none(), "{change:?}");
        }
        let mut paused = task();
        paused.is_paused = true;
        let (resumed, _) = steer(&paused, Steer::Resume, None).expect("it goes on");
        assert!(!resumed.is_paused && steer(&resumed, Steer::Resume, None).is_none());
        assert!(steer(&resumed, Steer::Rate(None), None).is_none());
    }

    #[test]
    fn a_finished_task_is_not_steered_and_a_cancelled_one_is_not_paused() {
        let mut task = task();
        task.cancel_requested = true;
        assert!(steer(&task, Steer::Pause, None).is_none());
        task.state = TaskState::Failed;
        for change in [Steer::Cancel, Steer::Pause, Steer::Resume, Steer::Rate(NonZeroU32::new(5))] {
            assert!(steer(&task, change, None).is_none(), "{change:?}");
        }
    }

    #[test]
    fn a_cancellation_ends_a_pause() {
        let mut task = task();
        task.is_paused = true;
        let by = Requester { token: "default".to_owned(), address: "192.0.2.1".to_owned() };
        let (after, event) = steer(&task, Steer::Cancel, Some(by.clone())).expect("it changes");
        assert!(after.cancel_requested && !after.is_paused);
        assert_eq!(event, Some(Event::CancelRequested { by }));
    }
}
