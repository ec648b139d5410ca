//! Tests that every statement uses an index, and the same plan whatever statistics a file has.

use std::{collections::BTreeMap, path::Path};

use rusqlite::Connection;

use super::*;
use crate::{
    Clock, OverlapQuery, Queue, QueueOptions, TaskFilter, TaskTotals,
    policy::{crash::InProgress, fixture, job::JobWrite},
    store::{
        copy::{Place, QuarantinedRecord, Record, Table},
        sqlite::connection,
    },
    task::{JobState, LogEntry, NewTask, Position, Progress, QuarantinedRow, TaskId, TaskState},
};

/// Statements that may read a whole index, and why.
const WHOLE_INDEX: [(&str, &str); 10] = [
    ("count_rows", "it counts the rows of a table, once for a copy"),
    ("overlapping_tasks", "the devices of one request, in memory"),
    ("in_progress", "the unfinished jobs, once for each dead service"),
    ("release_all", "the unfinished jobs, once when a service stops"),
    ("any_suspect", "the jobs suspected of crashes: nearly always none"),
    ("steering", "the unfinished tasks that were steered: nearly always few"),
    ("owners", "it reads the unfinished jobs; used by lists of instances, on a read connection"),
    ("backlog", "it counts the unfinished jobs; used for metrics, on a read connection"),
    ("in_progress_of_tasks", "the unfinished tasks, if worker.max_jobs_per_thing is set"),
    ("tasks_due", "the unfinished tasks by when they were served, until enough are found"),
];

/// Every statement of the queue, with the name of its function.
fn statements() -> Vec<(&'static str, String)> {
    let (id, device) = (TaskId::new(), Uuid::new_v4());
    let time = DateTime::UNIX_EPOCH;
    let new = NewTask {
        thing: device,
        devices: vec![device],
        topic: "t".to_owned(),
        from: time,
        to: time,
        request_id: Some("r".to_owned()),
        reason: None,
        rate: None,
    };
    let due = DueRow {
        id: 1,
        ordinal: 0,
        device,
        device_name: None,
        attempt: 1,
        lost: false,
        lost_owner: None,
        outages: 0,
        crashes: 0,
        suspected: 0,
        layout: None,
        total: None,
        progress: Progress::default(),
    };
    let event =
        LogEntry { task: id, seq: 1, at_ms: 0, event: crate::task::Event::TakenOver { device, published: 0 }, final_state: None };
    let quarantined = QuarantinedRow { position: Position { time_us: 0, key: "".into() }, reason: String::new() };
    let running = JobState::Running;
    let blamed = InProgress { id: 1, crashes: 0, suspected: 0, waiting: false };
    [
        ("insert_task", insert_task(id, &new.into(), 0)),
        ("task", task(id)),
        ("task_of_request", task_of_request("r")),
        ("devices", devices(id)),
        ("last_seqs", last_seqs(&[id, id])),
        ("set_task_served", set_task_served(id, 1)),
        ("steer_task", steer_task(&fixture::task(), 0)),
        ("cancel_requested", cancel_requested(id)),
        ("steering", steering()),
        ("owners", owners()),
        ("fail_unreadable_task", fail_unreadable_task("t".to_owned(), 0)),
        ("max_served_seq", max_served_seq()),
        ("has_open_jobs", has_open_jobs(id)),
        ("task_totals", task_totals(id)),
        ("store_totals", store_totals(id, &TaskTotals::default()).unwrap()),
        ("task_with_totals", task_with_totals(id)),
        ("failures", failures(id, 1)),
        ("prune", prune(0, 1)),
        ("backlog", backlog()),
        ("insert_job", insert_job(id, 0, device, 0)),
        ("lease", lease(&due, "o", 0)),
        ("in_progress", in_progress("o", 0)),
        ("end_lease_after_crash", end_lease_after_crash(&blamed, 0)),
        ("release_all", release_all("o", 0)),
        ("cancel_queued_jobs", cancel_queued_jobs(id)),
        ("end_job", end_job(1, running, None)),
        ("fail_jobs_of_unreadable_task", fail_jobs_of_unreadable_task("t".to_owned(), "")),
        ("write_job", write_job(1, 1, running, None, &JobWrite::default()).unwrap()),
        ("last_seq", last_seq(id)),
        ("advance_log", advance_log(id, 1)),
        ("end_log", end_log(id, 1, TaskState::Failed, 0)),
        ("insert_log_entry", insert_log_entry(&event).unwrap()),
        ("log_after", log_after(id, 0, 1)),
        ("insert_quarantined", insert_quarantined(id, device, &quarantined, 0)),
        ("quarantined_rows", quarantined_rows(id)),
    ]
    .into_iter()
    .chain(claims(id, device))
    .chain(lists(id, device))
    .chain(copies(id, device))
    .map(|(name, statement)| (name, statement.text.into_owned()))
    .collect()
}

fn claims(id: TaskId, thing: Uuid) -> Vec<(&'static str, Statement<'static>)> {
    vec![
        ("tasks_due", tasks_due(0, 1, &[], &[])),
        ("tasks_due", tasks_due(0, 1, &["t"], &[])),
        ("tasks_due", tasks_due(0, 1, &["t"], &[thing, thing])),
        ("in_progress_of_tasks", in_progress_of_tasks(0)),
        ("due_jobs", due_jobs(id, 0, 1, Suspects::Included)),
        ("due_jobs", due_jobs(id, 0, 1, Suspects::Excluded)),
        ("due_jobs", due_jobs(id, 0, 1, Suspects::Only)),
        ("any_suspect", any_suspect()),
    ]
}

fn lists(id: TaskId, device: Uuid) -> Vec<(&'static str, Statement<'static>)> {
    let time = DateTime::UNIX_EPOCH;
    let overlap = OverlapQuery { thing: device, topic: "t".to_owned(), devices: Vec::new(), from: time, to: time };
    let mut statements = vec![
        ("overlapping_tasks", overlapping_tasks(&overlap, "[]".to_owned(), Some(id), 1)),
        ("task_of_thing_at", task_of_thing_at(device, 1)),
        ("jobs", jobs(id, &[JobState::Running], Some(1), 1)),
        ("quarantine_page", quarantine_page(id, None, 1)),
    ];
    let every_filter = TaskFilter {
        thing: Some(device),
        device: Some(device),
        topic: Some("t".to_owned()),
        created_ms: Some(0..=1),
        ..TaskFilter::default()
    };
    let unfiltered = TaskFilter::default();
    let bounds = TaskScan { filter: &unfiltered, state: None, reason: None, from: String::new(), below: "~".to_owned() };
    let every = TaskScan { filter: &every_filter, state: Some(TaskState::Failed), reason: Some("x"), ..bounds.clone() };
    for index in [TaskIndex::Id, TaskIndex::State, TaskIndex::Thing, TaskIndex::Topic, TaskIndex::Reason] {
        for scan in [&bounds, &every] {
            statements.push(("tasks", scan.tasks(index, 1)));
            statements.push(("id_at_distance", scan.id_at_distance(index, 1)));
        }
    }
    statements
}

fn copies(id: TaskId, device: Uuid) -> Vec<(&'static str, Statement<'static>)> {
    let row = QuarantinedRecord {
        task_id: id.0,
        device_id: device,
        row_time: 0,
        row_key: String::new(),
        reason: String::new(),
        quarantined_at: 0,
    };
    let text = insert_record(&Record::Quarantined(row), 0).text;
    let mut statements = vec![("insert_record", Statement { text, values: Vec::new() })];
    for table in Table::ALL {
        statements.push(("count_rows", count_rows(table)));
        statements.push(("rows_after", rows_after(table, &Place::start(), 1)));
    }
    statements
}

#[test]
fn every_statement_is_in_the_list() {
    let sources = [
        include_str!("copy.rs"),
        include_str!("job.rs"),
        include_str!("list.rs"),
        include_str!("log.rs"),
        include_str!("task.rs"),
        include_str!("task_list.rs"),
        include_str!("totals.rs"),
    ];
    let known: Vec<_> = statements().into_iter().map(|(name, _)| name).collect();
    for function in sources.iter().flat_map(|source| source.split("pub fn ").skip(1)) {
        let (signature, _) = function.split_once('{').unwrap();
        let name = signature.split(['(', '<']).next().unwrap();
        assert_eq!(
            signature.contains("Statement<"),
            known.contains(&name),
            "statements() in plans.rs and the sources differ in {name}"
        );
    }
}

/// Fills a queue file with `tasks` tasks of `devices` devices each; one task in ten is unfinished.
async fn queue_of(folder: &Path, tasks: u32, devices: u32) -> Connection {
    let path = folder.join("queue.db");
    let options = QueueOptions::new(format!("sqlite://{}", path.display()));
    Queue::open(&options, Clock::System).await.unwrap().close().await;
    let connection = connection::connect(&path).unwrap();
    let fill = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {tasks})
         INSERT INTO task (id, thing_id, topic, range_from, range_to, state, served_seq, created_at, finished_at, request_id)
         SELECT 'task-' || i, '', 't', '', '', iif(i > {open}, 'succeeded', 'queued'), i, 0, iif(i > {open}, i, NULL), i FROM n;
         WITH RECURSIVE d (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM d WHERE i < {devices})
         INSERT INTO job (task_id, ordinal, device_id, state, due_at)
         SELECT id, i, i, state, iif(state = 'queued', 0, NULL) FROM task, d;
         INSERT INTO event (task_id, seq, at, ok, body) SELECT task_id, ordinal, 0, 1, '' FROM job;
         INSERT INTO quarantine SELECT task_id, device_id, 0, '', '', 0 FROM job;",
        open = tasks / 10,
    );
    if tasks > 0 {
        connection.execute_batch(&fill).unwrap();
    }
    connection
}

#[tokio::test]
async fn a_queue_has_no_statistics_and_drops_those_of_others() {
    let folder = tempfile::tempdir().unwrap();
    queue_of(folder.path(), 1, 1).await.execute_batch("ANALYZE").unwrap();
    // Opens and closes the queue once more.
    let connection = queue_of(folder.path(), 0, 0).await;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'sqlite_stat%'", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 0);
}

/// The plan of each statement, by its name and text: a name may have several texts.
fn plans(connection: &Connection) -> BTreeMap<(&'static str, String), Vec<String>> {
    let plan = |text: &str| {
        let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
        let values = rusqlite::params_from_iter(vec![rusqlite::types::Null; explain.parameter_count()]);
        explain.query_map(values, |row| row.get("detail")).unwrap().collect::<Result<Vec<_>>>().unwrap()
    };
    statements().into_iter().map(|(name, text)| (plan(&text), (name, text))).map(|(plan, key)| (key, plan)).collect()
}

#[tokio::test]
async fn plans_do_not_depend_on_when_statistics_were_taken() {
    let folder = tempfile::tempdir().unwrap();
    let without = plans(&queue_of(folder.path(), 0, 0).await);
    for (tasks, devices) in [(1, 1), (1, 20_000), (50_000, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let writer = queue_of(folder.path(), tasks, devices).await;
        // ANALYZE by another program, with one connection opened before it and one after.
        let other = Connection::open(folder.path().join("queue.db")).unwrap();
        other.execute_batch("ANALYZE").unwrap();
        let taken: i64 = other.query_row("SELECT count(*) FROM sqlite_stat1", [], |row| row.get(0)).unwrap();
        assert!(taken > 0, "no statistics were taken");
        for connection in [writer, connection::connect(&folder.path().join("queue.db")).unwrap()] {
            for (statement, plan) in plans(&connection) {
                assert_eq!(plan, without[&statement], "{statement:?}, statistics of {tasks} tasks of {devices} devices");
            }
        }
    }
}

#[tokio::test]
async fn no_statement_reads_a_whole_table() {
    let folder = tempfile::tempdir().unwrap();
    for ((name, text), plan) in plans(&queue_of(folder.path(), 0, 0).await) {
        let whole: Vec<_> = plan.iter().filter(|step| step.contains("SCAN") || step.contains("TEMP B-TREE")).collect();
        match WHOLE_INDEX.iter().find(|(statement, _)| *statement == name) {
            // The rows of these tables are in the index of their primary key.
            Some(_) => assert!(
                whole.iter().all(|step| step.contains("INDEX") || ["SCAN event", "SCAN quarantine"].contains(&step.as_str())),
                "{name}: {text}: {plan:?}"
            ),
            None => assert!(whole.is_empty(), "{name}: {text}: {plan:?}"),
        }
    }
}
