//! The operations that the other files do not need, one by one.

use std::collections::HashMap;

use data_patch_protocol::task::{Event, NewTask, TaskId, TaskState};
use data_patch_queue::{Checkpoint, ClaimLimits, QueueError, Submitted};

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
    let Submitted::Created(id) = bench.queue.submit_with_log(task(1, None), vec![ignored.clone()]).await.unwrap() else {
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
    let mut due = bench.queue.tasks_due(9, &["closed"]).await.unwrap();
    due.sort_unstable();
    assert_eq!(due, [limited, open]);
    let topics = HashMap::from([("closed".to_owned(), 0), ("limited".to_owned(), 1)]);
    let limits = move || ClaimLimits { jobs: 9, topics: topics.clone(), suspects: 1 };
    let leases = bench.queue.claim(&bench.owner, limits, LEASE, MAX_CRASHES).await.unwrap().leases;
    let of = |task| leases.iter().filter(|lease| lease.job.task.id == task).count();
    assert_eq!((of(closed), of(limited), of(open)), (0, 1, 3));
}

async fn a_cancelled_task_ends_when_its_last_job_has_stopped<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let id = bench.submit(3).await;
    let (one, two) = (bench.claim_one().await, bench.claim_one().await);
    let cancelled = bench.queue.cancel(id).await.unwrap().expect("no such task");
    assert!(!cancelled.already_finished && cancelled.task.cancel_requested);
    assert_eq!(bench.queue.tasks_being_cancelled().await.unwrap(), [id]);
    assert_eq!(bench.queue.backlog().await.unwrap().jobs, 2, "what was not running has ended");
    one.cancel(progress(3), 0).await.unwrap();
    assert_eq!(bench.state(id).await, TaskState::Running);
    // Its worker does not know yet.
    two.release(progress(4)).await.unwrap();
    assert_eq!(bench.state(id).await, TaskState::Cancelled);
    assert!(bench.queue.tasks_being_cancelled().await.unwrap().is_empty());
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

on_every_store! {
    a_log_begins_with_the_events_of_its_submit,
    a_log_is_read_in_pages,
    a_watch_on_another_instance_sees_each_line_once,
    a_request_that_differs_says_in_which_fields,
    a_closed_topic_keeps_no_other_waiting,
    a_cancelled_task_ends_when_its_last_job_has_stopped,
    a_probe_is_answered_and_the_size_is_known,
    a_closed_queue_says_so,
}
