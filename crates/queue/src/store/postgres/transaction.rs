//! What the changes of the queue have in common inside a transaction: time, locks, and logs.
//!
//! Locks are taken in one order, so that transactions wait for each other only briefly: the claim
//! lock, then rows of `task` by their ids, then rows of `job`. A task's row is locked before its
//! log grows or a job of it ends, so that its entries are numbered without a gap and its last job is
//! seen to be the last one.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Result, Row, query, query_scalar};
use uuid::Uuid;

use super::rows;
use crate::{
    Clock, TaskRow, TaskTotals, policy,
    task::{Event, LogEntry, MAX_NAMED, TaskId, TaskState},
};

/// The time of the server when the statement began, in milliseconds since 1970, unless a parameter
/// ([`Clock::manual_ms`]) is not NULL. An index can be searched by it.
macro_rules! now_ms {
    ($parameter:literal) => {
        concat!("COALESCE(", $parameter, "::bigint, (extract(epoch FROM statement_timestamp()) * 1000)::bigint)")
    };
}
pub(super) use now_ms;

pub async fn now(connection: &mut PgConnection, clock: &Clock) -> Result<i64> {
    match clock.manual_ms() {
        None => query_scalar(concat!("SELECT ", now_ms!("NULL"))).fetch_one(connection).await,
        Some(now_ms) => Ok(now_ms),
    }
}

/// Tasks whose rows are locked, and the time.
pub struct Locked {
    pub now_ms: i64,
    pub tasks: BTreeMap<TaskId, LockedTask>,
}

pub struct LockedTask {
    pub is_cancelling: bool,
    /// Neither finished nor paused.
    pub is_claimable: bool,
    last_seq: u64,
    /// Events to append to its log.
    events: Vec<Event>,
    /// Its final state and its totals as JSON, if it ends.
    end: Option<(TaskState, String)>,
}

impl Locked {
    /// Locks tasks. Those that do not exist are left out.
    pub async fn lock(connection: &mut PgConnection, clock: &Clock, ids: &[Uuid]) -> Result<Self> {
        let now_ms = now(connection, clock).await?;
        if ids.is_empty() {
            return Ok(Self { now_ms, tasks: BTreeMap::new() });
        }
        let sql = "SELECT id, last_seq, cancel_requested_at, finished_at IS NULL AND paused_at IS NULL AS is_claimable
                   FROM task WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE";
        let tasks = query(sql).bind(ids).fetch_all(connection).await?;
        let tasks = tasks.iter().map(|row| {
            let is_cancelling = row.try_get::<Option<i64>, _>("cancel_requested_at")?.is_some();
            let last_seq = rows::number(row, "last_seq")?;
            let is_claimable = row.try_get("is_claimable")?;
            Ok((rows::task_id(row)?, LockedTask { is_cancelling, is_claimable, last_seq, events: Vec::new(), end: None }))
        });
        Ok(Self { now_ms, tasks: tasks.collect::<Result<_>>()? })
    }

    /// Appends events to the log of a locked task.
    pub fn log(&mut self, task: TaskId, events: impl IntoIterator<Item = Event>) {
        if let Some(locked) = self.tasks.get_mut(&task) {
            locked.events.extend(events);
        }
    }

    /// Ends those of the tasks, which are locked, that have no open jobs.
    pub async fn finish_if_done<'t>(
        &mut self,
        connection: &mut PgConnection,
        tasks: impl IntoIterator<Item = &'t TaskRow>,
    ) -> Result<()> {
        let tasks: BTreeMap<Uuid, &TaskRow> = tasks.into_iter().map(|task| (task.id.0, task)).collect();
        if tasks.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = tasks.keys().copied().collect();
        // OFFSET 0: looked up task by task. As a join, all running jobs were read for each task, since
        // statistics of an idle queue know of none.
        let done: Vec<Uuid> = query_scalar(
            "SELECT ended.id FROM unnest($1::uuid[]) AS ended (id)
             WHERE NOT EXISTS (SELECT FROM job WHERE task_id = ended.id AND due_at IS NOT NULL OFFSET 0)
               AND NOT EXISTS (SELECT FROM job WHERE task_id = ended.id AND state = 'running' OFFSET 0)",
        )
        .bind(&ids)
        .fetch_all(&mut *connection)
        .await?;
        if done.is_empty() {
            return Ok(());
        }
        for (id, totals) in totals_of(connection, &done).await? {
            let Some(task) = tasks.get(&id.0) else { continue };
            let failures = if totals.jobs.failed == 0 {
                Vec::new()
            } else {
                let sql = "SELECT device_id, reason FROM job WHERE task_id = $1 AND state = 'failed' ORDER BY ordinal LIMIT $2";
                let failures = query(sql).bind(id.0).bind(rows::stored(MAX_NAMED as u64)).fetch_all(&mut *connection).await?;
                failures.iter().map(rows::failure).collect::<Result<_>>()?
            };
            crate::failpoint::hit("last-event");
            let stored = serde_json::to_string(&totals).map_err(|error| sqlx::Error::Encode(error.into()))?;
            let (event, state) = policy::task::finish(task, totals, failures, self.now_ms);
            if let Some(locked) = self.tasks.get_mut(&id) {
                locked.events.push(event);
                locked.end = Some((state, stored));
            }
        }
        Ok(())
    }

    /// Writes the logs and the ends of the tasks. The entries are to be published after the commit.
    pub async fn write(self, connection: &mut PgConnection) -> Result<Vec<LogEntry>> {
        let (mut tasks, mut entries) = (TaskColumns::default(), Vec::new());
        for (id, LockedTask { last_seq, events, end, .. }) in self.tasks {
            if events.is_empty() {
                continue;
            }
            let (final_state, totals) = end.unzip();
            let appended = policy::log::number(id, last_seq, self.now_ms, events, final_state);
            tasks.ids.push(id.0);
            tasks.last_seqs.push(rows::stored(appended.last().map_or(last_seq, |entry| entry.seq)));
            tasks.final_states.push(final_state.map(TaskState::as_str));
            tasks.totals.push(totals);
            entries.extend(appended);
        }
        if entries.is_empty() {
            return Ok(entries);
        }
        query(
            "UPDATE task SET last_seq = new.last_seq, state = COALESCE(new.final_state, state), totals = COALESCE(new.totals, task.totals),
                 finished_at = CASE WHEN new.final_state IS NOT NULL THEN $5 END
             FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[]) AS new (id, last_seq, final_state, totals)
             WHERE task.id = new.id",
        )
        .bind(&tasks.ids)
        .bind(&tasks.last_seqs)
        .bind(&tasks.final_states)
        .bind(&tasks.totals)
        .bind(self.now_ms)
        .execute(&mut *connection)
        .await?;
        insert(connection, &entries).await?;
        Ok(entries)
    }
}

#[derive(Default)]
struct TaskColumns {
    ids: Vec<Uuid>,
    last_seqs: Vec<i64>,
    final_states: Vec<Option<&'static str>>,
    totals: Vec<Option<String>>,
}

/// Inserts log entries. The lengths of their logs are stored by the caller.
pub async fn insert(connection: &mut PgConnection, entries: &[LogEntry]) -> Result<()> {
    let bodies = entries.iter().map(|entry| serde_json::to_string(&entry.event));
    let bodies: Vec<String> = bodies.collect::<Result<_, _>>().map_err(|error| sqlx::Error::Encode(error.into()))?;
    let column = |read: fn(&LogEntry) -> i64| entries.iter().map(read).collect::<Vec<_>>();
    query(
        "INSERT INTO event (task_id, seq, at, ok, kind, body, final_state)
         SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::boolean[], $5::text[], $6::text[], $7::text[])",
    )
    .bind(entries.iter().map(|entry| entry.task.0).collect::<Vec<_>>())
    .bind(column(|entry| rows::stored(entry.seq)))
    .bind(column(|entry| entry.at_ms))
    .bind(entries.iter().map(|entry| !entry.event.is_error()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.event.kind()).collect::<Vec<_>>())
    .bind(bodies)
    .bind(entries.iter().map(|entry| entry.final_state.map(TaskState::as_str)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// The totals of tasks, by their jobs.
pub async fn totals_of(connection: &mut PgConnection, tasks: &[Uuid]) -> Result<BTreeMap<TaskId, TaskTotals>> {
    let sql = "SELECT task_id AS id,
                   count(*) FILTER (WHERE state = 'queued') AS queued, count(*) FILTER (WHERE state = 'running') AS running,
                   count(*) FILTER (WHERE state = 'succeeded') AS succeeded, count(*) FILTER (WHERE state = 'failed') AS failed,
                   count(*) FILTER (WHERE state = 'cancelled') AS cancelled, COALESCE(sum(total), 0)::bigint AS counted,
                   count(total) AS counted_jobs, COALESCE(sum(published), 0)::bigint AS published,
                   COALESCE(sum(quarantined), 0)::bigint AS quarantined, COALESCE(sum(unanswered), 0)::bigint AS unanswered,
                   count(*) FILTER (WHERE state = 'succeeded' AND published + quarantined = 0) AS empty,
                   COALESCE(sum(rows_per_second) FILTER (WHERE state = 'running'), 0) AS rows_per_second
               FROM job WHERE task_id = ANY ($1) GROUP BY task_id";
    let totals = query(sql).bind(tasks).fetch_all(connection).await?;
    totals.iter().map(|row| Ok((rows::task_id(row)?, rows::totals(row)?))).collect()
}
