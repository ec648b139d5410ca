//! Submitting tasks, many in one transaction, and steering them.

use std::{
    collections::HashSet,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::{PgConnection, Result, query, query_scalar};
use uuid::Uuid;

use super::{
    Shared,
    connections::transact,
    error::{Failure, Remedy},
    lane::Request,
    rows::{self, stored, stored_text, stored_time, task_columns},
    transaction::{self, Locked},
};
use crate::{
    Steer, Steered, Submission, Submitted, TaskRow,
    policy::{self, task::differences},
    task::{LogEntry, Requester, TaskId},
};

/// A task to be stored.
pub struct SubmitRequest {
    submission: Submission,
    /// The same when it is stored again, because it is not known whether it was.
    id: OnceLock<TaskId>,
}

impl From<Submission> for SubmitRequest {
    fn from(submission: Submission) -> Self {
        Self { submission, id: OnceLock::new() }
    }
}

impl Request for SubmitRequest {
    type Answer = Submitted;

    async fn commit(shared: &Shared, batch: &[&Self]) -> std::result::Result<Vec<Submitted>, Failure> {
        let commits = AtomicBool::new(false);
        match commit(shared, batch, &commits).await {
            // The answer to the commit was lost. If it was made, the tasks are found.
            Err(Failure { remedy: Remedy::Wait, .. }) if commits.load(Ordering::Relaxed) => commit(shared, batch, &commits).await,
            submitted => submitted,
        }
    }

    fn weight(&self) -> usize {
        1 + self.submission.task.devices.len() + self.submission.events.len()
    }

    /// The second of two equal requests finds the task of the first.
    fn follows(&self, earlier: &Self) -> bool {
        let request_id = &self.submission.task.request_id;
        request_id.is_some() && *request_id == earlier.submission.task.request_id
    }
}

async fn commit(shared: &Shared, batch: &[&SubmitRequest], commits: &AtomicBool) -> std::result::Result<Vec<Submitted>, Failure> {
    let (submitted, entries) = transact!(shared, transaction => {
        let submitted = submit(&mut transaction, shared, batch).await?;
        commits.store(true, Ordering::Relaxed);
        submitted
    })?;
    shared.publish(entries);
    Ok(submitted)
}

async fn submit(
    connection: &mut PgConnection,
    shared: &Shared,
    batch: &[&SubmitRequest],
) -> Result<(Vec<Submitted>, Vec<LogEntry>)> {
    let now_ms = transaction::now(connection, &shared.clock).await?;
    // By their request ids: two instances that insert the same ones do not wait for each other.
    let mut order: Vec<(TaskId, &Submission)> =
        batch.iter().map(|request| (*request.id.get_or_init(|| shared.new_task_id(now_ms)), &request.submission)).collect();
    let requests = order.clone();
    order.sort_by(|(_, a), (_, b)| a.task.request_id.cmp(&b.task.request_id));
    let created: HashSet<Uuid> = insert_tasks(connection, &order, now_ms).await?.into_iter().collect();
    let new: Vec<(TaskId, &Submission)> = order.into_iter().filter(|(id, _)| created.contains(&id.0)).collect();
    let entries = new.iter().flat_map(|(id, submission)| policy::log::number(*id, 0, now_ms, submission.events.clone(), None));
    let entries: Vec<LogEntry> = entries.collect();
    insert_jobs(connection, &new, now_ms).await?;
    if !entries.is_empty() {
        transaction::insert(connection, &entries).await?;
    }
    let mut submitted = Vec::with_capacity(batch.len());
    for (id, submission) in requests {
        submitted.push(if created.contains(&id.0) || is_stored(connection, id).await? {
            Submitted::Created(id)
        } else {
            existing(connection, submission).await?
        });
    }
    Ok((submitted, entries))
}

/// Whether an earlier try has stored this task.
async fn is_stored(connection: &mut PgConnection, id: TaskId) -> Result<bool> {
    query_scalar("SELECT EXISTS (SELECT FROM task WHERE id = $1)").bind(id.0).fetch_one(connection).await
}

/// Inserts the tasks whose requests are new, and returns their ids.
async fn insert_tasks(connection: &mut PgConnection, tasks: &[(TaskId, &Submission)], now_ms: i64) -> Result<Vec<Uuid>> {
    fn column<'s, T>(tasks: &[(TaskId, &'s Submission)], read: impl Fn(&'s Submission) -> T) -> Vec<T> {
        tasks.iter().map(|(_, submission)| read(submission)).collect()
    }
    query_scalar(
        "INSERT INTO task (id, request_id, thing_id, topic, range_from, range_to, state, last_seq, created_at, reason, rate, retry_of,
             requester, requester_address)
         SELECT id, request_id, thing_id, topic, range_from, range_to, 'queued', last_seq, $13, reason, rate, retry_of, requester,
             requester_address
         FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::bigint[],
             $10::uuid[], $11::text[], $12::text[]) WITH ORDINALITY
             AS new (id, request_id, thing_id, topic, range_from, range_to, last_seq, reason, rate, retry_of, requester,
                 requester_address, place)
         ORDER BY place
         ON CONFLICT DO NOTHING
         RETURNING id",
    )
    .bind(tasks.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
    .bind(column(tasks, |submission| submission.task.request_id.as_deref()))
    .bind(column(tasks, |submission| submission.task.thing))
    .bind(column(tasks, |submission| submission.task.topic.as_str()))
    .bind(column(tasks, |submission| stored_time(submission.task.from)))
    .bind(column(tasks, |submission| stored_time(submission.task.to)))
    .bind(column(tasks, |submission| stored(submission.events.len() as u64)))
    .bind(column(tasks, |submission| submission.task.reason.as_deref().map(stored_text)))
    .bind(column(tasks, |submission| submission.task.rate.map(|rate| i64::from(rate.get()))))
    .bind(column(tasks, |submission| submission.retry_of.map(|task| task.0)))
    .bind(column(tasks, |submission| submission.requester.as_ref().map(|requester| requester.token.as_str())))
    .bind(column(tasks, |submission| submission.requester.as_ref().map(|requester| requester.address.as_str())))
    .bind(now_ms)
    .fetch_all(connection)
    .await
}

async fn insert_jobs(connection: &mut PgConnection, tasks: &[(TaskId, &Submission)], now_ms: i64) -> Result<()> {
    let (mut ids, mut ordinals, mut devices) = (Vec::new(), Vec::<i32>::new(), Vec::new());
    for (id, submission) in tasks {
        for (ordinal, device) in (0..).zip(&submission.task.devices) {
            ids.push(id.0);
            ordinals.push(ordinal);
            devices.push(*device);
        }
    }
    query(
        "INSERT INTO job (task_id, ordinal, device_id, state, due_at)
         SELECT *, 'queued', $4 FROM unnest($1::uuid[], $2::integer[], $3::uuid[])",
    )
    .bind(ids)
    .bind(ordinals)
    .bind(devices)
    .bind(now_ms)
    .execute(connection)
    .await?;
    Ok(())
}

/// The task of an earlier request with the same id.
async fn existing(connection: &mut PgConnection, submission: &Submission) -> Result<Submitted> {
    let sql = concat!("SELECT ", task_columns!(), " FROM task WHERE request_id = $1");
    let row = rows::task(&query(sql).bind(&submission.task.request_id).fetch_one(&mut *connection).await?)?;
    let sql = "SELECT device_id FROM job WHERE task_id = $1 ORDER BY ordinal";
    let devices: Vec<Uuid> = query_scalar(sql).bind(row.id.0).fetch_all(connection).await?;
    let fields = differences(&submission.task, &row, &devices);
    Ok(if fields.is_empty() { Submitted::Existing(Box::new(row)) } else { Submitted::Conflict { task: row.id, fields } })
}

/// Changes an unfinished task.
pub async fn steer(
    shared: &Shared,
    id: TaskId,
    steer: Steer,
    by: Option<&Requester>,
) -> std::result::Result<Option<Steered>, Failure> {
    let (steered, entries) =
        transact!(shared, transaction => { write_steered(&mut transaction, shared, id, steer, by.cloned()).await? })?;
    shared.publish(entries);
    Ok(steered)
}

async fn write_steered(
    connection: &mut PgConnection,
    shared: &Shared,
    id: TaskId,
    steer: Steer,
    by: Option<Requester>,
) -> Result<(Option<Steered>, Vec<LogEntry>)> {
    let mut locked = Locked::lock(connection, &shared.clock, &[id.0]).await?;
    let sql = concat!("SELECT ", task_columns!(), " FROM task WHERE id = $1");
    let Some(row) = query(sql).bind(id.0).fetch_optional(&mut *connection).await? else { return Ok((None, Vec::new())) };
    let before = rows::task(&row)?;
    let already_finished = before.state.is_final();
    let Some((task, event)) = policy::task::steer(&before, steer, by) else {
        return Ok((Some(Steered { task: before, already_finished }), Vec::new()));
    };
    // The times of a cancellation and of a pause stay those of the first request.
    query(
        "UPDATE task SET cancel_requested_at = CASE WHEN $2 THEN COALESCE(cancel_requested_at, $5) END,
             paused_at = CASE WHEN $3 THEN COALESCE(paused_at, $5) END, rate = $4
         WHERE id = $1",
    )
    .bind(id.0)
    .bind(task.cancel_requested)
    .bind(task.is_paused)
    .bind(task.rate.map(|rate| i64::from(rate.get())))
    .bind(locked.now_ms)
    .execute(&mut *connection)
    .await?;
    locked.log(id, event);
    if steer == Steer::Cancel {
        query("UPDATE job SET state = 'cancelled', due_at = NULL WHERE task_id = $1 AND state = 'queued'")
            .bind(id.0)
            .execute(&mut *connection)
            .await?;
        locked.finish_if_done(connection, [&task]).await?;
    }
    let entries = locked.write(connection).await?;
    let last = entries.last();
    let state = last.and_then(|entry| entry.final_state).unwrap_or(task.state);
    let last_seq = last.map_or(task.last_seq, |entry| entry.seq);
    let task = TaskRow { state, last_seq, ..task };
    Ok((Some(Steered { task, already_finished: false }), entries))
}
