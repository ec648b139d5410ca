//! The operations that the other files do not need, one by one.

use std::{collections::HashMap, num::NonZeroU32};

use data_patch_protocol::task::{Event, JobState, NewTask, Requester, TaskId, TaskState};
use data_patch_queue::{
    Checkpoint, ClaimLimits, OverlapQuery, Queue, QueueError, Steer, Steering, Submission, Submitted, TaskFilter,
};
use uuid::Uuid;

use crate::support::{Bench, LEASE, MAX_CRASHES, TestStore, counted, on_every_store, progress, task};

async fn submit<S>(bench: &Bench<S>, task: NewTask) -> TaskId {
    match bench.queue.submit(task).await.unwrap() {
        Submitted::Created(id) => id,
        other => panic!("{other:?}"),
    }
}

async fn a_log_begins_with_the_events_of_its_submit<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let ignored = Event::FieldsIgnored { fields: vec!["x".to_owned()], more: 0 };
    let Submitted::Created(id) =
        bench.queue.submit(Submission { events: vec![ignored.clone()], ..task(1, None).into() }).await.unwrap()
    else {
        panic!("it exists")
    };
    let log = bench.queue.log_after(id, 0, 9).await.unwrap();
    assert_eq!(log.iter().map(|entry| (entry.seq, &entry.event)).collect::<Vec<_>>(), [(1, &ignored)]);
    assert_eq!(bench.queue.task(id).await.unwrap().unwrap().last_seq, 1);
}

async fn a_log_is_read_in_pages<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let id = bench.submit(1).await;
    let lease = bench.claim_one().await;
    for rows in 0..5 {
        lease.checkpoint(counted(None, rows)).await.unwrap();
    }
    let page = async |after, limit| -> Vec<u64> {
        bench.queue.log_after(id, after, limit).await.unwrap().iter().map(|entry| entry.seq).collect()
    };
    assert_eq!(page(0, 2).await, [1, 2]);
    assert_eq!(page(2, 9).await, [3, 4, 5]);
    assert!(page(5, 9).await.is_empty());
}

async fn a_watch_on_another_instance_sees_each_line_once<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let other = bench.open().await;
    let id = bench.submit(1).await;
    let lease = bench.claim_one().await;
    let mut watch = other.tail(id, 0);
    let writing = async {
        for rows in 0..300 {
            lease.checkpoint(counted(None, rows)).await.unwrap();
        }
        lease.succeed(Checkpoint::default()).await.unwrap();
    };
    let watching = async {
        let mut seqs = Vec::new();
        while let Some(told) = watch.next().await.unwrap() {
            seqs.push(told.entry.seq);
        }
        seqs
    };
    let ((), seqs) = tokio::join!(writing, watching);
    assert_eq!(seqs, (1..=301).collect::<Vec<_>>());
}

async fn a_request_that_differs_says_in_which_fields<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let first = task(2, Some("same"));
    let id = submit(&bench, first.clone()).await;
    let Submitted::Existing(row) = bench.queue.submit(first.clone()).await.unwrap() else { panic!("it is new") };
    assert_eq!(row.id, id);
    let turned = NewTask { topic: "other".to_owned(), devices: first.devices.iter().rev().copied().collect(), ..first };
    let Submitted::Conflict { task, fields } = bench.queue.submit(turned).await.unwrap() else { panic!("they are the same") };
    assert_eq!((task, fields), (id, vec!["topic", "devices"]));
}

async fn a_closed_topic_keeps_no_other_waiting<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let closed = submit(&bench, NewTask { topic: "closed".to_owned(), ..task(3, None) }).await;
    let limited = submit(&bench, NewTask { topic: "limited".to_owned(), ..task(3, None) }).await;
    let open = bench.submit(3).await;
    let topics = HashMap::from([("closed".to_owned(), 0), ("limited".to_owned(), 1)]);
    let limits = move || ClaimLimits { topics: topics.clone(), ..9.into() };
    let mut due = bench.queue.tasks_due(&limits()).await.unwrap();
    due.sort_unstable();
    assert_eq!(due, [limited, open]);
    let leases = bench.queue.claim(&bench.owner, limits, LEASE, MAX_CRASHES).await.unwrap().leases;
    let of = |task| leases.iter().filter(|lease| lease.job.task.id == task).count();
    assert_eq!((of(closed), of(limited), of(open)), (0, 1, 3));
}

async fn a_thing_has_no_more_jobs_than_its_limit_on_all_instances<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let other = bench.open().await;
    let bridge = Uuid::new_v4();
    let on_bridge = async || submit(&bench, NewTask { thing: bridge, ..task(3, None) }).await;
    let (one, two, dam) = (on_bridge().await, on_bridge().await, bench.submit(1).await);
    let limits = |jobs: usize| ClaimLimits { jobs_per_thing: Some(2), ..jobs.into() };
    let claim =
        async |queue: &Queue, jobs| queue.claim(&queue.owner(), move || limits(jobs), LEASE, MAX_CRASHES).await.unwrap().leases;
    let first = claim(&bench.queue, 1).await.remove(0);
    assert!([one, two].contains(&first.job.task.id), "the oldest tasks come first");
    let mut rest = claim(&other, 9).await;
    rest.sort_by_key(|lease| lease.job.task.thing == bridge);
    assert_eq!(rest.iter().map(|lease| lease.job.task.thing == bridge).collect::<Vec<_>>(), [false, true]);
    assert_eq!(rest[0].job.task.id, dam);
    assert!(bench.queue.tasks_due(&limits(9)).await.unwrap().is_empty(), "nobody could claim a job");
    assert!(claim(&bench.queue, 9).await.is_empty());
    // An end makes room, and so does a lease that is over.
    first.succeed(progress(3)).await.unwrap();
    assert_eq!(bench.queue.tasks_due(&limits(1)).await.unwrap().len(), 1);
    assert_eq!(claim(&bench.queue, 9).await.len(), 1);
    bench.pass(LEASE * 2);
    assert_eq!(claim(&other, 9).await.iter().filter(|lease| lease.job.task.thing == bridge).count(), 2);
}

async fn a_cancelled_task_ends_when_its_last_job_has_stopped<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let id = bench.submit(3).await;
    let (one, two) = (bench.claim_one().await, bench.claim_one().await);
    let cancelled = bench.queue.cancel(id).await.unwrap().expect("no such task");
    assert!(!cancelled.already_finished && cancelled.task.cancel_requested);
    let steering = bench.queue.steering().await.unwrap();
    assert!(matches!(steering[..], [Steering { task, is_cancelled: true, .. }] if task == id), "{steering:?}");
    assert_eq!(bench.queue.backlog().await.unwrap().jobs, 2, "what was not running has ended");
    one.cancel(progress(3), 0).await.unwrap();
    assert_eq!(bench.state(id).await, TaskState::Running);
    // Its worker does not know yet.
    two.release(progress(4)).await.unwrap();
    assert_eq!(bench.state(id).await, TaskState::Cancelled);
    assert!(bench.queue.steering().await.unwrap().is_empty());
    let log = bench.log(id).await;
    assert!(log.last().unwrap().contains("7 rows published"), "{log:?}");
    assert!(bench.queue.cancel(id).await.unwrap().expect("no such task").already_finished);
    assert!(bench.queue.cancel(TaskId::new()).await.unwrap().is_none());
}

async fn a_probe_is_answered_and_the_size_is_known<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    bench.queue.probe().await.unwrap();
    assert!(bench.queue.disk_bytes().await > 0);
}

async fn a_closed_queue_says_so<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let id = bench.submit(1).await;
    let lease = bench.claim_one().await;
    bench.queue.close().await;
    assert!(matches!(bench.queue.submit(task(1, None)).await, Err(QueueError::Closed)));
    assert!(matches!(bench.queue.task(id).await, Err(QueueError::Closed)));
    assert!(lease.checkpoint(Checkpoint::default()).await.is_err());
    // What was accepted before is there.
    assert_eq!(bench.open().await.task(id).await.unwrap().map(|row| row.id), Some(id));
}

async fn a_paused_task_is_not_claimed_until_it_is_resumed<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let id = bench.submit(2).await;
    let lease = bench.claim_one().await;
    let paused = bench.queue.steer(id, Steer::Pause, Some(requester())).await.unwrap().expect("no such task");
    assert!(paused.task.is_paused && !paused.already_finished);
    assert!(bench.queue.steering().await.unwrap()[0].is_paused);
    lease.release(progress(3)).await.unwrap();
    assert!(bench.queue.tasks_due(&9.into()).await.unwrap().is_empty());
    assert!(bench.queue.claim(&bench.owner, || 9, LEASE, MAX_CRASHES).await.unwrap().leases.is_empty());
    assert!(bench.queue.backlog().await.unwrap().oldest_due.is_zero(), "nobody waits for a task that was paused");
    for _ in 0..2 {
        let resumed = bench.queue.steer(id, Steer::Resume, Some(requester())).await.unwrap().expect("no such task");
        assert!(!resumed.task.is_paused);
    }
    let leases = bench.queue.claim(&bench.owner, || 9, LEASE, MAX_CRASHES).await.unwrap().leases;
    assert_eq!(leases.iter().map(|lease| lease.job.progress.published).collect::<Vec<_>>(), [3, 0]);
    let log = bench.log(id).await;
    assert!(log[0].starts_with("paused by night-duty (10.0.3.7)") && log[1].starts_with("resumed by"), "{log:?}");
    assert_eq!(log.len(), 2, "what is repeated is logged once: {log:?}");
}

async fn a_paused_task_is_cancelled_like_any_other<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let id = bench.submit(2).await;
    bench.queue.steer(id, Steer::Pause, None).await.unwrap();
    let cancelled = bench.queue.cancel(id).await.unwrap().expect("no such task");
    assert_eq!((cancelled.task.state, bench.state(id).await), (TaskState::Cancelled, TaskState::Cancelled));
    assert!(bench.queue.steer(id, Steer::Resume, None).await.unwrap().expect("no such task").already_finished);
}

async fn the_rate_of_a_task_is_told_to_its_workers<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let id = bench.submit(1).await;
    assert!(bench.queue.steering().await.unwrap().is_empty());
    let rate = NonZeroU32::new(500);
    assert_eq!(bench.queue.steer(id, Steer::Rate(rate), None).await.unwrap().expect("no such task").task.rate, rate);
    assert_eq!(bench.queue.steering().await.unwrap()[0].rate, rate);
    bench.queue.steer(id, Steer::Rate(None), None).await.unwrap();
    assert!(bench.queue.steering().await.unwrap().is_empty());
}

async fn a_task_keeps_who_asked_for_it_and_why<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let (rate, reason) = (NonZeroU32::new(7), Some("ET was down".to_owned()));
    let first = bench.submit(1).await;
    let submission = Submission {
        requester: Some(requester()),
        retry_of: Some(first),
        ..NewTask { rate, reason: reason.clone(), ..task(2, Some("named")) }.into()
    };
    let Submitted::Created(id) = bench.queue.submit(submission).await.unwrap() else { panic!("not created") };
    let row = bench.queue.task(id).await.unwrap().expect("no such task");
    assert_eq!((row.rate, row.reason, row.retry_of, row.requester), (rate, reason, Some(first), Some(requester())));
    assert_eq!(row.request_id.as_deref(), Some("named"));
}

async fn tasks_are_listed_newest_first_in_parts<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let mut created = Vec::new();
    for _ in 0..5 {
        created.push(bench.submit(1).await);
    }
    bench.queue.cancel(created[1]).await.unwrap();
    let (mut listed, mut before) = (Vec::new(), None);
    loop {
        let page = bench.queue.tasks(&TaskFilter::default(), before, 2).await.unwrap();
        listed.extend(page.tasks.iter().map(|detail| detail.task.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(listed, created.iter().rev().copied().collect::<Vec<_>>());
    let filtered = async |filter: TaskFilter| {
        let page = bench.queue.tasks(&filter, None, 9).await.unwrap();
        page.tasks.iter().map(|detail| detail.task.id).collect::<Vec<_>>()
    };
    let states = vec![TaskState::Cancelled, TaskState::Running];
    assert_eq!(filtered(TaskFilter { states, ..TaskFilter::default() }).await, [created[1]]);
    let device = bench.queue.jobs(created[2], &[], None, 9).await.unwrap()[0].device;
    assert_eq!(filtered(TaskFilter { device: Some(device), ..TaskFilter::default() }).await, [created[2]]);
    let thing = bench.queue.task(created[3]).await.unwrap().expect("no such task").thing;
    assert_eq!(filtered(TaskFilter { thing: Some(thing), ..TaskFilter::default() }).await, [created[3]]);
    let text = Some(created[4].to_string());
    assert_eq!(filtered(TaskFilter { text, ..TaskFilter::default() }).await, [created[4]]);
}

async fn the_counts_of_a_task_follow_its_jobs_and_stay_when_it_is_finished<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let id = bench.submit(2).await;
    let lease = bench.claim_one().await;
    lease.checkpoint(Checkpoint { counted: counted(Some("水"), 9).counted, ..progress(4) }).await.unwrap();
    let totals = bench.queue.task_detail(id).await.unwrap().expect("no such task").totals;
    assert_eq!((totals.jobs.running, totals.jobs.queued), (1, 1));
    assert_eq!((totals.counted, totals.counted_jobs, totals.published), (9, 1, 4));
    lease.succeed(progress(9)).await.unwrap();
    bench.queue.cancel(id).await.unwrap();
    let totals = bench.queue.task_detail(id).await.unwrap().expect("no such task").totals;
    assert_eq!((totals.jobs.succeeded, totals.jobs.cancelled, totals.published), (1, 1, 9));
    let jobs = bench.queue.jobs(id, &[JobState::Succeeded], None, 9).await.unwrap();
    assert_eq!(jobs.iter().map(|job| (job.name.as_deref(), job.published)).collect::<Vec<_>>(), [(Some("水"), 9)]);
    assert_eq!(bench.queue.jobs(id, &[], Some(0), 9).await.unwrap()[0].ordinal, 1);
}

async fn tasks_of_the_same_devices_and_time_overlap<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let first = task(3, None);
    let id = submit(&bench, first.clone()).await;
    let query = |devices: &[Uuid], from| OverlapQuery {
        thing: first.thing,
        topic: first.topic.clone(),
        devices: devices.to_vec(),
        from,
        to: from,
    };
    let other = Uuid::new_v4();
    let found = bench.queue.overlaps(query(&[first.devices[1], other], first.from), 9).await.unwrap();
    assert_eq!(found.iter().map(|task| task.id).collect::<Vec<_>>(), [id]);
    assert!(bench.queue.overlaps(query(&[other], first.from), 9).await.unwrap().is_empty());
    let later = first.to + chrono::TimeDelta::seconds(1);
    assert!(bench.queue.overlaps(query(&first.devices, later), 9).await.unwrap().is_empty());
}

fn requester() -> Requester {
    Requester { token: "night-duty".to_owned(), address: "10.0.3.7".to_owned() }
}

on_every_store! {
    a_paused_task_is_not_claimed_until_it_is_resumed,
    a_paused_task_is_cancelled_like_any_other,
    the_rate_of_a_task_is_told_to_its_workers,
    a_task_keeps_who_asked_for_it_and_why,
    tasks_are_listed_newest_first_in_parts,
    the_counts_of_a_task_follow_its_jobs_and_stay_when_it_is_finished,
    tasks_of_the_same_devices_and_time_overlap,
    a_log_begins_with_the_events_of_its_submit,
    a_log_is_read_in_pages,
    a_watch_on_another_instance_sees_each_line_once,
    a_request_that_differs_says_in_which_fields,
    a_closed_topic_keeps_no_other_waiting,
    a_thing_has_no_more_jobs_than_its_limit_on_all_instances,
    a_cancelled_task_ends_when_its_last_job_has_stopped,
    a_probe_is_answered_and_the_size_is_known,
    a_closed_queue_says_so,
}
