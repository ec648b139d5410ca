//! A queue is copied between stores of each kind: what was in it is in the copy, and open tasks go on.

mod refused;

use std::{num::NonZeroU32, path::Path, sync::Arc, time::Duration};

use data_patch_protocol::task::{
    Delivered, Event, JobState, NewTask, Position, Progress, QuarantinedRow, Requester, RowId, TaskId, TaskState,
};
use data_patch_queue::{
    Checkpoint, Clock, CopyError, CopyPhase, CopyReport, DeviceCount, Queue, Steer, Submission, Submitted, TaskFilter, copy,
};
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::oneshot;

use crate::support::{Bench, LEASE, MAX_CRASHES, PostgresSchema, SqliteFile, TestStore, counted, progress, task};

macro_rules! all_four_ways {
    ($($test:ident),+ $(,)?) => {
        one_way!(sqlite_to_sqlite, SqliteFile, SqliteFile, $($test),+);
        one_way!(sqlite_to_postgres, SqliteFile, PostgresSchema, $($test),+);
        one_way!(postgres_to_sqlite, PostgresSchema, SqliteFile, $($test),+);
        one_way!(postgres_to_postgres, PostgresSchema, PostgresSchema, $($test),+);
    };
}

macro_rules! one_way {
    ($name:ident, $from:ty, $to:ty, $($test:ident),+) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test]
                async fn $test() {
                    if <$from>::is_available() && <$to>::is_available() {
                        super::$test::<$from, $to>().await;
                    }
                }
            )+
        }
    };
}

all_four_ways!(
    a_copy_shows_what_the_original_shows,
    a_job_goes_on_from_its_checkpoint_and_its_log_without_a_gap,
    a_target_with_tasks_is_refused,
    a_queue_in_use_is_refused,
    an_interrupted_copy_leaves_nothing,
    a_wait_is_as_long_on_the_clock_of_the_copy,
);

async fn copied(from: &impl TestStore, to: &impl TestStore, clock: &Clock) -> Result<CopyReport, CopyError> {
    copy(&from.options(), &to.options(), clock, |_| {}).await
}

/// Stops the service on a store. Its leases stay, as after a crash: they belong to another owner.
async fn stopped<S>(bench: Bench<S>) -> (S, Clock) {
    let Bench { queue, now, store, .. } = bench;
    queue.close().await;
    (store, Clock::Manual(now))
}

const TEXT: &str = "线路检修 🚧 \u{202e}\u{1}\\\"'\n{}, e\u{301}";

/// A checkpoint with everything that one may have.
fn full_checkpoint() -> Checkpoint {
    let key = |key: &str| Position { time_us: -7, key: key.into() };
    let mut delivered = Delivered::default();
    delivered.add(RowId { instant_us: -8, key: "k".into() }, u128::MAX - 1, 3, 1 << 40);
    Checkpoint {
        counted: Some(DeviceCount { name: Some(TEXT.to_owned()), total: 9 }),
        progress: Progress { position: Some(key(TEXT)), published: 1, quarantined: 2, delivered },
        layout: Some("timestamptz/text".to_owned()),
        quarantined: vec![
            QuarantinedRow { position: key("j"), reason: TEXT.to_owned() },
            QuarantinedRow { position: key("J"), reason: String::new() },
        ],
        events: Vec::new(),
        waiting: Some(true),
        rows_per_second: Some(0.1 + 0.2),
    }
}

/// Fills a queue with tasks in all states. Returns the one that is in the middle.
async fn fill<S: TestStore>(bench: &Bench<S>) -> TaskId {
    let finished = bench.submit(3).await;
    let mut leases = bench.claim(3).await.into_iter();
    leases.next().unwrap().succeed(full_checkpoint()).await.unwrap();
    leases.next().unwrap().fail(Checkpoint::default(), TEXT.to_owned()).await.unwrap();
    leases.next().unwrap().succeed(progress(0)).await.unwrap();
    assert_eq!(bench.state(finished).await, TaskState::Failed);

    let cancelled = bench.submit(2).await;
    bench.queue.cancel(cancelled).await.unwrap();
    let cancelling = bench.submit(2).await;
    let lease = bench.claim_one().await;
    bench.queue.cancel(cancelling).await.unwrap();
    drop(lease);

    let open = NewTask { reason: Some(TEXT.to_owned()), rate: NonZeroU32::new(u32::MAX), ..task(1_500, Some(TEXT)) };
    let requester = Some(Requester { token: "大屏".to_owned(), address: "::1".to_owned() });
    let submission = Submission { requester: requester.clone(), retry_of: Some(finished), events: Vec::new(), task: open };
    let Submitted::Created(open) = bench.queue.submit(submission).await.unwrap() else { panic!("it exists") };
    let leases = bench.claim(3).await;
    leases[0].checkpoint(full_checkpoint()).await.unwrap();
    leases[1].retry(counted(None, 4), Duration::from_secs(9)).await.unwrap();
    let events = (0..2_400).map(|n| Event::FieldsIgnored { fields: vec![TEXT.to_owned()], more: n }).collect();
    leases[2].succeed(Checkpoint { events, ..full_checkpoint() }).await.unwrap();

    let paused = bench.submit(1).await;
    bench.queue.steer(paused, Steer::Pause, requester).await.unwrap();
    open
}

/// All that the queue shows: of each task, its counts, its jobs, its log and its quarantined rows.
async fn shown(queue: &Queue) -> Vec<String> {
    let mut shown = Vec::new();
    for task in queue.tasks(&TaskFilter::default(), None, 99).await.unwrap().tasks {
        let (id, mut detail) = (task.task.id, queue.task_detail(task.task.id).await.unwrap().unwrap());
        // A running job is queued in the copy.
        detail.totals.jobs.queued += std::mem::take(&mut detail.totals.jobs.running);
        detail.totals.rows_per_second = 0.0;
        shown.push(format!("{detail:?}"));
        let mut jobs = queue.jobs(id, &[], None, 9_999).await.unwrap();
        for job in jobs.iter_mut().filter(|job| job.state == JobState::Running) {
            (job.state, job.rows_per_second, job.due_at_ms) = (JobState::Queued, None, Some(queue.now_ms()));
        }
        shown.extend(jobs.iter().map(|job| format!("{job:?}")));
        shown.extend(queue.log_after(id, 0, 9_999).await.unwrap().iter().map(|entry| format!("{entry:?}")));
        shown.extend(queue.quarantined_rows(id).await.unwrap().iter().map(|row| format!("{row:?}")));
    }
    shown
}

async fn a_copy_shows_what_the_original_shows<S: TestStore, T: TestStore>() {
    let bench = Bench::<S>::new().await;
    fill(&bench).await;
    bench.pass(Duration::from_secs(4));
    let expected = shown(&bench.queue).await;
    let ((from, clock), to) = (stopped(bench).await, T::create().await);
    let mut phases = Vec::new();
    let report = copy(&from.options(), &to.options(), &clock, |progress| phases.push(progress)).await.unwrap();
    assert_eq!((report.tasks, report.jobs, report.open_jobs, report.leases_ended), (5, 1_508, 1_501, 2));
    assert_eq!((report.quarantined_rows, report.replaced_texts), (6, 0));
    let copy = to.open(clock).await;
    let shown = shown(&copy).await;
    assert_eq!(shown, expected);
    assert_eq!(report.log_entries as usize, shown.iter().filter(|line| line.starts_with("LogEntry ")).count());
    let last = |phase| phases.iter().rfind(|progress| progress.phase == phase).map(|last| (last.rows, last.total));
    let all = report.tasks + report.jobs + report.log_entries + report.quarantined_rows;
    assert_eq!((last(CopyPhase::Copying), last(CopyPhase::Comparing)), (Some((all, all)), Some((all, all))));
}

async fn a_job_goes_on_from_its_checkpoint_and_its_log_without_a_gap<S: TestStore, T: TestStore>() {
    let bench = Bench::<S>::new().await;
    let id = fill(&bench).await;
    let ((from, clock), to) = (stopped(bench).await, T::create().await);
    copied(&from, &to, &clock).await.unwrap();
    let Clock::Manual(now) = &clock else { unreachable!() };
    let queue = to.open(clock.clone()).await;
    let bench = Bench { queue, now: Arc::clone(now), owner: "two".into(), store: to };
    let before = bench.queue.task(id).await.unwrap().unwrap();
    assert_eq!(before.last_seq, bench.log(id).await.len() as u64);
    // The cancelled job of the lost worker ends here.
    let leases = bench.claim(2_000).await;
    assert!(leases.iter().all(|lease| lease.job.task.id == id));
    assert_eq!(leases.len(), 1_498, "all but the one that is done, and the one that waits");
    let first = &leases[0];
    let Checkpoint { progress: expected, layout, .. } = full_checkpoint();
    assert_eq!((first.job.attempt, &first.job.progress, &first.job.layout), (2, &expected, &layout));
    assert_eq!((first.job.name.as_deref(), first.job.total), (Some(TEXT), Some(9)));
    assert_eq!(bench.log(id).await.len() as u64, before.last_seq, "nobody is told of a lost worker");
    first.checkpoint(Checkpoint { counted: counted(None, 1).counted, ..full_checkpoint() }).await.unwrap();
    let log = bench.queue.log_after(id, before.last_seq, 9).await.unwrap();
    assert_eq!(log.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [before.last_seq + 1]);
    bench.pass(Duration::from_secs(8));
    assert!(bench.claim(1).await.is_empty(), "it waits for 9 s");
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.claim_one().await.job.outages, 1);
    // New tasks get on with it.
    let new = bench.submit(1).await;
    assert_eq!(bench.claim_one().await.job.task.id, new);
}

async fn a_target_with_tasks_is_refused<S: TestStore, T: TestStore>() {
    let (from, to) = (Bench::<S>::new().await, Bench::<T>::new().await);
    from.submit(1).await;
    to.submit(1).await;
    let ((from, clock), (to, _)) = (stopped(from).await, stopped(to).await);
    let error = copied(&from, &to, &clock).await.unwrap_err();
    assert!(matches!(error, CopyError::NotEmpty { tasks: 1, .. }), "{error}");
    let error = copied(&to, &to, &clock).await.unwrap_err();
    assert!(matches!(error, CopyError::Same), "{error}");
}

async fn a_queue_in_use_is_refused<S: TestStore, T: TestStore>() {
    let clock = Clock::System;
    let (from, to) = (S::create().await, T::create().await);
    let running = from.open(clock.clone()).await;
    let error = copied(&from, &to, &clock).await.unwrap_err();
    assert!(matches!(error, CopyError::InUse { services: 1, .. }), "{error}");
    running.close().await;
    drop(running);
    let running = to.open(clock.clone()).await;
    let error = copied(&from, &to, &clock).await.unwrap_err();
    assert!(matches!(error, CopyError::InUse { services: 1, .. }), "{error}");
    running.close().await;
    drop(running);
    assert_eq!(copied(&from, &to, &clock).await.unwrap(), CopyReport::default());
}

async fn an_interrupted_copy_leaves_nothing<S: TestStore, T: TestStore>() {
    let bench = Bench::<S>::new().await;
    fill(&bench).await;
    let ((from, clock), to) = (stopped(bench).await, T::create().await);
    let (compares, comparing) = oneshot::channel();
    let mut compares = Some(compares);
    let (from_options, to_options) = (from.options(), to.options());
    let interrupted = copy(&from_options, &to_options, &clock, |progress| {
        if progress.phase == CopyPhase::Comparing {
            compares.take().map(|compares| compares.send(()));
        }
    });
    tokio::select! {
        biased;
        _ = comparing => {}
        _ = interrupted => panic!("it was not interrupted"),
    }
    let queue = to.open(clock.clone()).await;
    assert!(queue.tasks(&TaskFilter::default(), None, 9).await.unwrap().tasks.is_empty());
    queue.close().await;
    drop(queue);
    assert_eq!(copied(&from, &to, &clock).await.unwrap().tasks, 5);
}

async fn a_wait_is_as_long_on_the_clock_of_the_copy<S: TestStore, T: TestStore>() {
    let (from, to) = (S::create().await, T::create().await);
    let queue = from.open(Clock::System).await;
    let Submitted::Created(id) = queue.submit(task(1, None)).await.unwrap() else { panic!("it exists") };
    let lease = queue.claim(&queue.owner(), || 1, LEASE, MAX_CRASHES).await.unwrap().leases.pop().unwrap();
    lease.retry(Checkpoint::default(), Duration::from_hours(2)).await.unwrap();
    drop(lease);
    queue.close().await;
    drop(queue);
    from.shift_clock(Duration::from_mins(30)).await;
    copied(&from, &to, &Clock::System).await.unwrap();
    let queue = to.open(Clock::System).await;
    let due_at = queue.jobs(id, &[], None, 9).await.unwrap()[0].due_at_ms.unwrap();
    let wait = Duration::from_millis((due_at - queue.now_ms()).cast_unsigned());
    assert!(wait.abs_diff(Duration::from_hours(2)) < Duration::from_mins(1), "{wait:?}");
}

/// The time of the clock that the store of a queue file has for itself.
trait ShiftClock {
    async fn shift_clock(&self, by: Duration);
}

impl<S: TestStore> ShiftClock for S {
    async fn shift_clock(&self, by: Duration) {
        let Some(path) = self.options().url.strip_prefix("sqlite://").map(str::to_owned) else { return };
        let by = by.as_millis();
        let sql = format!("UPDATE clock SET offset_ms = offset_ms + {by}; UPDATE job SET due_at = due_at + {by}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut raw(Path::new(&path)).await).await.unwrap();
    }
}

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path).create_if_missing(true)).await.unwrap()
}

async fn execute(store: &SqliteFile, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut raw(&store.path()).await).await.unwrap();
}

/// Every column of a table but ids of jobs, as literals of SQL, and the names of the columns.
async fn dump(store: &SqliteFile, table: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut connection = raw(&store.path()).await;
    let columns = format!("SELECT name FROM pragma_table_info('{table}') WHERE NOT (name = 'id' AND '{table}' = 'job')");
    let columns: Vec<String> = sqlx::query_scalar(AssertSqlSafe(columns)).fetch_all(&mut connection).await.unwrap();
    let quoted: Vec<_> = columns.iter().map(|column| format!("quote({column})")).collect();
    let sql = format!("SELECT {} FROM {table} ORDER BY 1, 2, 3, 4", quoted.join(", "));
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
    let values = |row: &sqlx::sqlite::SqliteRow| (0..columns.len()).map(|n| row.get::<String, _>(n)).collect();
    let rows = rows.iter().map(values).collect();
    (columns, rows)
}

/// Copies a file by way of another store, and compares all columns of all tables.
async fn compare_columns_after_a_way_by<T: TestStore>() {
    let bench = Bench::<SqliteFile>::new().await;
    fill(&bench).await;
    let ((from, clock), by, back) = (stopped(bench).await, T::create().await, SqliteFile::create().await);
    // Whatever fill() leaves empty, and the leases, which end.
    execute(
        &from,
        "UPDATE job SET crashes = 1, suspected = 2, waiting = 1, unanswered = 3 WHERE state = 'failed';
         UPDATE job SET state = 'queued', due_at = 5 WHERE state = 'running'",
    )
    .await;
    copied(&from, &by, &clock).await.unwrap();
    copied(&by, &back, &clock).await.unwrap();
    for table in ["task", "job", "event", "quarantine"] {
        let ((columns, original), (_, copied)) = (dump(&from, table).await, dump(&back, table).await);
        for (n, column) in columns.iter().enumerate() {
            let is_set = original.iter().any(|row| !["NULL", "0", "''"].contains(&row[n].as_str()));
            assert!(is_set, "the test fills no {table}.{column}, and would not see that it is lost");
        }
        assert_eq!(original, copied, "{table}: {columns:?}");
    }
}

#[tokio::test]
async fn every_column_comes_back_from_a_queue_file() {
    compare_columns_after_a_way_by::<SqliteFile>().await;
}

#[tokio::test]
async fn every_column_comes_back_from_postgres() {
    if PostgresSchema::is_available() {
        compare_columns_after_a_way_by::<PostgresSchema>().await;
    }
}
