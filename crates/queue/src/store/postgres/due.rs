//! The tasks and jobs that are due: they wait, or the lease has expired.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use sqlx::{PgConnection, Result, Row, postgres::PgRow, query, query_scalar};
use uuid::Uuid;

use super::{
    rows::{self, number},
    transaction::now_ms,
};
use crate::{
    ClaimLimits, Clock, Job, TaskRow,
    policy::{claim::History, crash},
    task::{JobState, TaskId},
};

/// The tasks with due jobs, the least recently served first: at most $4, without those of the topics
/// $2 and the things $3. $1 is the time of a manual clock.
macro_rules! select_tasks_due {
    ($columns:expr) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM task CROSS JOIN LATERAL (
                  (SELECT FROM job WHERE job.task_id = task.id AND job.due_at <= ",
            now_ms!("$1"),
            " LIMIT 1)
                  UNION ALL
                  (SELECT FROM job WHERE job.task_id = task.id AND job.state = 'running' AND job.lease_until <= ",
            now_ms!("$1"),
            " LIMIT 1)
                  LIMIT 1
              ) AS due
              WHERE finished_at IS NULL AND paused_at IS NULL AND topic <> ALL ($2) AND thing_id <> ALL ($3)
              ORDER BY served_seq LIMIT $4"
        )
    };
}
pub(super) use select_tasks_due;

/// At most `most` tasks of which a job may be claimed.
pub async fn tasks_due(connection: &mut PgConnection, clock: &Clock, limits: &ClaimLimits, most: usize) -> Result<Vec<TaskId>> {
    let closed_things = limits.closed_things(&in_progress_of_things(connection, clock, limits).await?);
    let due = query_scalar::<_, Uuid>(select_tasks_due!("id"))
        .bind(clock.manual_ms())
        .bind(limits.closed_topics())
        .bind(closed_things)
        .bind(rows::stored(most as u64));
    Ok(due.fetch_all(connection).await?.into_iter().map(TaskId).collect())
}

/// The jobs in progress of each thing, on all instances. Empty if things have no limit.
pub async fn in_progress_of_things(
    connection: &mut PgConnection,
    clock: &Clock,
    limits: &ClaimLimits,
) -> Result<HashMap<Uuid, usize>> {
    if limits.jobs_per_thing.is_none() {
        return Ok(HashMap::new());
    }
    let sql = concat!(
        "SELECT thing_id, count(*) AS jobs FROM job JOIN task ON task.id = job.task_id
         WHERE job.state = 'running' AND job.lease_until > ",
        now_ms!("$1"),
        " GROUP BY thing_id"
    );
    let things = query(sql).bind(clock.manual_ms()).fetch_all(connection).await?;
    things.iter().map(|row| Ok((row.try_get("thing_id")?, number(row, "jobs")?))).collect()
}

/// The due jobs of each of the tasks, the longest due first: at most `limit` of each, or, if
/// suspects are told apart, so many suspects and so many others.
pub async fn due_jobs(
    connection: &mut PgConnection,
    tasks: &[Arc<TaskRow>],
    now_ms: i64,
    limit: usize,
    separates_suspects: bool,
) -> Result<Vec<VecDeque<DueJob>>> {
    macro_rules! due {
        ($condition:literal) => {
            concat!(
                "SELECT * FROM (
                     (SELECT job.*, due_at AS since FROM job
                      WHERE task_id = served.id AND due_at <= $2",
                $condition,
                " ORDER BY due_at, ordinal LIMIT $3)
                     UNION ALL
                     (SELECT job.*, lease_until AS since FROM job
                      WHERE task_id = served.id AND state = 'running' AND lease_until <= $2",
                $condition,
                "
                      ORDER BY lease_until, ordinal LIMIT $3)
                 ) AS either ORDER BY since, ordinal LIMIT $3"
            )
        };
    }
    macro_rules! of_tasks {
        ($due:expr) => {
            concat!(
                "SELECT served.place, due.* FROM unnest($1::uuid[]) WITH ORDINALITY AS served (id, place)
                 CROSS JOIN LATERAL (",
                $due,
                ") AS due ORDER BY served.place, due.since, due.ordinal"
            )
        };
    }
    let sql = if separates_suspects {
        of_tasks!(concat!("(", due!(" AND suspected <= 1"), ") UNION ALL (", due!(" AND suspected > 1"), ")"))
    } else {
        of_tasks!(due!(""))
    };
    let ids: Vec<Uuid> = tasks.iter().map(|task| task.id.0).collect();
    let read = query(sql).bind(ids).bind(now_ms).bind(rows::stored(limit as u64)).fetch_all(connection).await?;
    let mut due: Vec<_> = tasks.iter().map(|_| VecDeque::new()).collect();
    for row in read {
        let place: i64 = row.try_get("place")?;
        if let Some(of_task) = usize::try_from(place - 1).ok().and_then(|place| due.get_mut(place)) {
            of_task.push_back(DueJob::read(row)?);
        }
    }
    Ok(due)
}

/// A due job that is not leased yet.
pub struct DueJob {
    pub id: i64,
    pub ordinal: i32,
    pub is_suspect: bool,
    /// The owner of the expired lease, if the blame for it was not assigned yet.
    pub lost_owner: Option<String>,
    row: PgRow,
}

impl DueJob {
    fn read(row: PgRow) -> Result<Self> {
        let lease_until: Option<i64> = row.try_get("lease_until")?;
        Ok(Self {
            id: row.try_get("id")?,
            ordinal: row.try_get("ordinal")?,
            is_suspect: number::<u32>(&row, "suspected")? >= crash::ISOLATE_AFTER,
            lost_owner: row.try_get::<Option<String>, _>("owner")?.filter(|_| lease_until.is_some()),
            row,
        })
    }

    /// The job, as it is once it is leased.
    pub fn job(&self, task: &Arc<TaskRow>, owner: &Arc<str>) -> Result<(Job, History, u32)> {
        let row = &self.row;
        let lost = row.try_get::<&str, _>("state")? == JobState::Running.as_str();
        let job = Job {
            id: self.id,
            task: Arc::clone(task),
            device: row.try_get("device_id")?,
            name: row.try_get("device_name")?,
            attempt: row.try_get::<i64, _>("attempt")? + 1,
            owner: Arc::clone(owner),
            outages: number(row, "outages")?,
            is_suspect: self.is_suspect,
            total: rows::optional_number(row, "total")?,
            progress: rows::progress(row)?,
            layout: row.try_get("cursor_layout")?,
        };
        Ok((job, History { lost, crashes: number(row, "crashes")? }, number(row, "suspected")?))
    }
}
