//! Updates of jobs by the holders of their leases, many in one transaction.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use sqlx::{PgConnection, Result, query, query_scalar};
use uuid::Uuid;

use super::{
    Shared,
    connections::{lend, transact},
    error::{Failure, Remedy},
    lane::Request,
    rows::{stored, stored_text},
    transaction::Locked,
};
use crate::{
    Job, failpoint,
    lease::JobUpdate,
    policy::{
        job::{Transition, events, transition, yields_to_cancellation},
        millis,
    },
    task::{JobState, LogEntry, QuarantinedRow},
};

/// An update of a job, answered with whether its attempt had the lease.
pub struct UpdateRequest {
    pub job: Arc<Job>,
    pub update: JobUpdate,
    pub lease: Duration,
}

impl UpdateRequest {
    /// Whether the row of the task has to be locked: its log grows, a job of it may end, or whether
    /// it is being cancelled decides what is written.
    fn concerns_task(&self) -> bool {
        let JobUpdate { change, counted, events, .. } = &self.update;
        change.is_some() || counted.is_some() || !events.is_empty()
    }
}

impl Request for UpdateRequest {
    type Answer = bool;

    async fn commit(shared: &Shared, batch: &[&Self]) -> std::result::Result<Vec<bool>, Failure> {
        let mut written = None;
        let committed = transact!(shared, transaction => { written = Some(write(&mut transaction, shared, batch).await?) });
        let Some(Written { columns, had_lease, entries }) = written else { return committed.map(|()| Vec::new()) };
        if let Err(failure) = committed
            // The answer was lost. If it was committed, making it again would log its events twice.
            && (failure.remedy != Remedy::Wait || !columns.are_written(shared).await?)
        {
            return Err(failure);
        }
        shared.publish(entries);
        Ok(had_lease)
    }

    fn weight(&self) -> usize {
        1 + self.update.events.len() + self.update.quarantined.len()
    }

    fn follows(&self, earlier: &Self) -> bool {
        self.job.id == earlier.job.id
    }
}

/// What a transaction has written, once it is committed.
struct Written {
    columns: JobColumns,
    had_lease: Vec<bool>,
    entries: Vec<LogEntry>,
}

async fn write(connection: &mut PgConnection, shared: &Shared, batch: &[&UpdateRequest]) -> Result<Written> {
    let tasks: BTreeSet<Uuid> =
        batch.iter().filter(|request| request.concerns_task()).map(|request| request.job.task.id.0).collect();
    let tasks: Vec<Uuid> = tasks.into_iter().collect();
    let mut locked = Locked::lock(connection, &shared.clock, &tasks).await?;
    let (mut columns, mut ending) = (JobColumns::default(), Vec::new());
    for UpdateRequest { job, update, lease } in batch {
        let is_cancelling =
            yields_to_cancellation(update) && locked.tasks.get(&job.task.id).is_some_and(|task| task.is_cancelling);
        let transition = transition(job, update, is_cancelling, locked.now_ms, locked.now_ms + millis(*lease))
            .map_err(|error| sqlx::Error::Encode(error.into()))?;
        ending.push(transition.state.is_final());
        columns.push(job, &transition)?;
    }
    let had_lease = columns.write(connection).await?;
    let had_lease: Vec<bool> = batch.iter().map(|request| had_lease.contains(&request.job.id)).collect();
    let written = || batch.iter().zip(&had_lease).filter(|(_, had_lease)| **had_lease).map(|(request, _)| *request);
    if written().any(|request| request.update.change.is_none() && request.update.progress.is_some()) {
        failpoint::hit("heartbeat");
    }
    quarantine(connection, written(), locked.now_ms).await?;
    for UpdateRequest { job, update, .. } in written() {
        locked.log(job.task.id, events(job, update));
    }
    let ended = batch.iter().zip(&had_lease).zip(&ending).filter(|((_, had_lease), ends)| **had_lease && **ends);
    locked.finish_if_done(connection, ended.map(|((request, _), _)| &*request.job.task)).await?;
    let entries = locked.write(connection).await?;
    Ok(Written { columns, had_lease, entries })
}

/// The new values of jobs, by column. `None` keeps the present value, but for the first lines.
#[derive(Default)]
pub struct JobColumns {
    ids: Vec<i64>,
    attempts: Vec<i64>,
    states: Vec<&'static str>,
    due_at: Vec<Option<i64>>,
    lease_until: Vec<Option<i64>>,
    names: Vec<Option<String>>,
    totals: Vec<Option<i64>>,
    times: Vec<Option<i64>>,
    keys: Vec<Option<String>>,
    layouts: Vec<Option<String>>,
    published: Vec<Option<i64>>,
    quarantined: Vec<Option<i64>>,
    delivered: Vec<Option<String>>,
    outages: Vec<Option<i64>>,
    waiting: Vec<Option<bool>>,
    unanswered: Vec<Option<i64>>,
    rows_per_second: Vec<Option<f64>>,
    owners: Vec<Option<String>>,
    reasons: Vec<Option<String>>,
}

impl JobColumns {
    pub fn push(&mut self, job: &Job, transition: &Transition<'_>) -> Result<()> {
        let Transition { state, due_at, columns } = transition;
        let (progress, position) = (columns.progress, columns.progress.and_then(|progress| progress.position.as_ref()));
        let delivered = progress.map(|progress| serde_json::to_string(&progress.delivered)).transpose();
        self.ids.push(job.id);
        self.attempts.push(job.attempt);
        self.states.push(state.as_str());
        self.due_at.push(due_at.filter(|_| *state != JobState::Running));
        self.lease_until.push(due_at.filter(|_| *state == JobState::Running));
        self.names.push(columns.name.map(stored_text));
        self.totals.push(columns.total.map(stored));
        self.times.push(position.map(|position| position.time_us));
        self.keys.push(position.map(|position| position.key.to_string()));
        self.layouts.push(position.and(columns.layout).map(str::to_owned));
        self.published.push(progress.map(|progress| stored(progress.published)));
        self.quarantined.push(progress.map(|progress| stored(progress.quarantined)));
        self.delivered.push(delivered.map_err(|error| sqlx::Error::Encode(error.into()))?);
        self.outages.push(columns.outages.map(i64::from));
        self.waiting.push(columns.waiting);
        self.unanswered.push(columns.unanswered.map(stored));
        self.rows_per_second.push(columns.rows_per_second);
        self.owners.push(columns.owner.map(str::to_owned));
        self.reasons.push(columns.reason.map(stored_text));
        Ok(())
    }

    /// Whether the transaction that wrote these values was committed: a job has them. The end of a lease
    /// is of the time of its transaction.
    async fn are_written(&self, shared: &Shared) -> std::result::Result<bool, Failure> {
        // The lock waits for the transaction, if the server has not ended it yet.
        let sql =
            "SELECT job.id FROM job JOIN unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
                       AS new (id, attempt, state, due_at, lease_until, published) ON job.id = new.id
                   WHERE job.attempt = new.attempt AND job.state = new.state AND job.due_at IS NOT DISTINCT FROM new.due_at
                       AND job.lease_until IS NOT DISTINCT FROM new.lease_until
                       AND job.published = COALESCE(new.published, job.published)
                   ORDER BY job.id FOR UPDATE OF job";
        let written = query_scalar::<_, i64>(sql)
            .bind(&self.ids)
            .bind(&self.attempts)
            .bind(&self.states)
            .bind(&self.due_at)
            .bind(&self.lease_until)
            .bind(&self.published);
        Ok(!lend!(shared.connections, connection => written.fetch_all(connection))?.is_empty())
    }

    /// Writes the jobs whose attempts have their leases, and returns their ids. The condition on the
    /// state is one that the index of running jobs does not fulfil: by it, all of them were read for
    /// each of these, since statistics of an idle queue know of none.
    pub async fn write(&self, connection: &mut PgConnection) -> Result<HashSet<i64>> {
        let written: Vec<i64> = query_scalar(
            "UPDATE job SET state = new.state, due_at = new.due_at, lease_until = new.lease_until,
                 device_name = COALESCE(new.device_name, job.device_name), total = COALESCE(new.total, job.total),
                 cursor_time = COALESCE(new.cursor_time, job.cursor_time), cursor_key = COALESCE(new.cursor_key, job.cursor_key),
                 cursor_layout = COALESCE(new.cursor_layout, job.cursor_layout),
                 published = COALESCE(new.published, job.published), quarantined = COALESCE(new.quarantined, job.quarantined),
                 delivered = COALESCE(new.delivered, job.delivered), outages = COALESCE(new.outages, job.outages),
                 crashes = CASE WHEN new.outages IS NULL THEN job.crashes ELSE 0 END,
                 suspected = CASE WHEN new.outages IS NULL THEN job.suspected ELSE 0 END,
                 waiting = COALESCE(new.waiting, job.waiting), unanswered = COALESCE(new.unanswered, job.unanswered),
                 rows_per_second = COALESCE(new.rows_per_second, job.rows_per_second),
                 owner = COALESCE(new.owner, job.owner), reason = COALESCE(new.reason, job.reason)
             FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[],
                     $9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::text[], $14::bigint[], $15::boolean[], $16::bigint[],
                     $17::float8[], $18::text[], $19::text[])
                 AS new (id, attempt, state, due_at, lease_until, device_name, total, cursor_time, cursor_key, cursor_layout, published,
                     quarantined, delivered, outages, waiting, unanswered, rows_per_second, owner, reason)
             WHERE job.id = new.id AND job.attempt = new.attempt AND job.state IN ('running', '')
             RETURNING job.id",
        )
        .bind(&self.ids)
        .bind(&self.attempts)
        .bind(&self.states)
        .bind(&self.due_at)
        .bind(&self.lease_until)
        .bind(&self.names)
        .bind(&self.totals)
        .bind(&self.times)
        .bind(&self.keys)
        .bind(&self.layouts)
        .bind(&self.published)
        .bind(&self.quarantined)
        .bind(&self.delivered)
        .bind(&self.outages)
        .bind(&self.waiting)
        .bind(&self.unanswered)
        .bind(&self.rows_per_second)
        .bind(&self.owners)
        .bind(&self.reasons)
        .fetch_all(connection)
        .await?;
        Ok(written.into_iter().collect())
    }
}

/// Stores quarantined rows. Those that are stored already are not changed.
async fn quarantine<'b>(
    connection: &mut PgConnection,
    batch: impl Iterator<Item = &'b UpdateRequest>,
    now_ms: i64,
) -> Result<()> {
    let rows = batch.flat_map(|request| request.update.quarantined.iter().map(|row| (&*request.job, row)));
    let rows: Vec<(&Job, &QuarantinedRow)> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    query(
        "INSERT INTO quarantine (task_id, device_id, row_time, row_key, reason, quarantined_at)
         SELECT *, $6 FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::text[]) ON CONFLICT DO NOTHING",
    )
    .bind(rows.iter().map(|(job, _)| job.task.id.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|(job, _)| job.device).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| row.position.time_us).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| row.position.key.to_string()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| stored_text(&row.reason)).collect::<Vec<_>>())
    .bind(now_ms)
    .execute(connection)
    .await?;
    Ok(())
}
