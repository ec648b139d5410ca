//! Jobs: inserted, claimed, and changed by the holder of the lease.

use std::str::FromStr;

use rusqlite::{Row, types::FromSql};
use sea_query::{Expr, ExprTrait, Order, Query};
use uuid::Uuid;

use super::{
    Result, Statement, decode_error,
    statement::{Sql, build_sql, by_index, eq_param, param, set, set_or_keep},
    uuid,
};
use crate::{
    policy::{crash::InProgress, job::JobWrite},
    store::sqlite::schema::{Job, index},
    task::{Delivered, JobState, Position, Progress, TaskId},
};

pub fn insert_job(task: TaskId, ordinal: usize, device: Uuid, now_ms: i64) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let columns = [Job::TaskId, Job::Ordinal, Job::DeviceId, Job::State, Job::DueAt];
        build_sql(Query::insert().into_table(Job::Table).columns(columns).values_panic(columns.map(|_| param())))
    });
    Statement::new(&TEXT, [task.into(), (ordinal as u64).into(), device.into(), JobState::Queued.into(), now_ms.into()])
}

/// The devices of a task, in the order of the request.
pub fn devices(task: TaskId) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        build_sql(
            Query::select()
                .column(Job::DeviceId)
                .from(Job::Table)
                .and_where(eq_param(Job::TaskId))
                .order_by(Job::Ordinal, Order::Asc),
        )
    });
    Statement::new(&TEXT, [task.into()])
}

pub fn read_device(row: &Row<'_>) -> Result<Uuid> {
    uuid(row, "device_id")
}

/// Which jobs of a task a claim considers. A suspect is a job with at least two shared crashes
/// ([`crash::ISOLATE_AFTER`](crate::policy::crash::ISOLATE_AFTER)). The number is part of the statement's
/// text, since SQLite does not use a partial index for a bound value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspects {
    Included,
    Excluded,
    Only,
}

/// At most `limit` jobs of a task that may be leased, the longest due first.
pub fn due_jobs(task: TaskId, now_ms: i64, limit: u64, suspects: Suspects) -> Statement<'static> {
    static ALL: Sql = Sql::new(|| select_due(None, index::JOB_DUE));
    static WITHOUT: Sql = Sql::new(|| select_due(Some("\"suspected\" <= 1"), index::JOB_DUE));
    static ONLY: Sql = Sql::new(|| select_due(Some("\"suspected\" > 1"), index::JOB_SUSPECT));
    let text = match suspects {
        Suspects::Included => &ALL,
        Suspects::Excluded => &WITHOUT,
        Suspects::Only => &ONLY,
    };
    Statement::new(text, [task.into(), now_ms.into(), limit.into()])
}

fn select_due(condition: Option<&'static str>, index: &str) -> String {
    let select = Query::select()
        .columns(DUE_COLUMNS)
        .from(Job::Table)
        .and_where(eq_param(Job::TaskId))
        .and_where(Expr::col(Job::DueAt).lte(param()))
        .and_where_option(condition.map(Expr::cust))
        .order_by(Job::DueAt, Order::Asc)
        .order_by(Job::Ordinal, Order::Asc)
        .limit(0)
        .take();
    by_index(&build_sql(&select), r#"FROM "job""#, index)
}

/// Returns a row if any unfinished job is a suspect.
pub fn any_suspect() -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let text = build_sql(
            Query::select()
                .expr(Expr::cust("1"))
                .from(Job::Table)
                .and_where(Expr::cust("\"suspected\" > 1 AND \"due_at\" IS NOT NULL"))
                .limit(1),
        );
        by_index(&text, r#"FROM "job""#, index::JOB_SUSPECT)
    });
    Statement::new(&TEXT, [1_i64.into()])
}

/// Leases a job.
pub fn lease<'a>(job: &DueRow, owner: &'a str, until_ms: i64) -> Statement<'a> {
    static TEXT: Sql = Sql::new(|| {
        let columns = [Job::State, Job::Attempt, Job::Owner, Job::DueAt];
        build_sql(Query::update().table(Job::Table).values(columns.map(set)).and_where(eq_param(Job::Id)))
    });
    let state = JobState::Running;
    Statement::new(&TEXT, [state.into(), job.attempt.into(), owner.into(), until_ms.into(), job.id.into()])
}

/// The running jobs of an instance whose leases end by `until_ms`.
pub fn in_progress(owner: &str, until_ms: i64) -> Statement<'_> {
    static TEXT: Sql = Sql::new(|| {
        let text = build_sql(
            Query::select()
                .columns([Job::Id, Job::Crashes, Job::Suspected, Job::Waiting])
                .from(Job::Table)
                .and_where(eq_param(Job::Owner))
                .and_where(eq_param(Job::State))
                .and_where(Expr::col(Job::DueAt).lte(param())),
        );
        by_index(&text, r#"FROM "job""#, index::JOB_DUE)
    });
    Statement::new(&TEXT, [owner.into(), JobState::Running.into(), until_ms.into()])
}

pub fn read_in_progress(row: &Row<'_>) -> Result<InProgress> {
    Ok(InProgress {
        id: row.get("id")?,
        crashes: row.get("crashes")?,
        suspected: row.get("suspected")?,
        waiting: row.get::<_, i64>("waiting")? != 0,
    })
}

/// Expires the lease of a job after a crash and stores the blame. Clears the owner, so that the
/// crash counts only once.
pub fn end_lease_after_crash(job: &InProgress, now_ms: i64) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let columns = [Job::Crashes, Job::Suspected, Job::Waiting, Job::Owner, Job::DueAt];
        build_sql(Query::update().table(Job::Table).values(columns.map(set)).and_where(eq_param(Job::Id)))
    });
    let values = [job.crashes.into(), job.suspected.into(), 0_i64.into(), None::<&str>.into(), now_ms.into(), job.id.into()];
    Statement::new(&TEXT, values)
}

/// Returns all running jobs of an instance to the queue. None of its workers may write any more.
pub fn release_all(owner: &str, now_ms: i64) -> Statement<'_> {
    static TEXT: Sql = Sql::new(|| {
        let text = build_sql(
            Query::update()
                .table(Job::Table)
                .values([set(Job::State), set(Job::DueAt), set(Job::Waiting)])
                .and_where(eq_param(Job::Owner))
                .and_where(eq_param(Job::State))
                .and_where(Expr::col(Job::DueAt).is_not_null()),
        );
        by_index(&text, r#"UPDATE "job""#, index::JOB_DUE)
    });
    Statement::new(&TEXT, [JobState::Queued.into(), now_ms.into(), 0_i64.into(), owner.into(), JobState::Running.into()])
}

/// Cancels the queued jobs of a task. Its running jobs end when they have stopped.
pub fn cancel_queued_jobs(task: TaskId) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let text = build_sql(
            Query::update()
                .table(Job::Table)
                .values([set(Job::State), set(Job::DueAt)])
                .and_where(eq_param(Job::TaskId))
                .and_where(eq_param(Job::State))
                .and_where(Expr::col(Job::DueAt).is_not_null()),
        );
        by_index(&text, r#"UPDATE "job""#, index::JOB_DUE)
    });
    Statement::new(&TEXT, [JobState::Cancelled.into(), None::<i64>.into(), task.into(), JobState::Queued.into()])
}

/// Ends a job in any state, with an optional reason.
pub fn end_job(id: i64, state: JobState, reason: Option<&str>) -> Statement<'_> {
    static TEXT: Sql = Sql::new(|| {
        let columns = [Job::State, Job::DueAt, Job::Reason];
        build_sql(Query::update().table(Job::Table).values(columns.map(set)).and_where(eq_param(Job::Id)))
    });
    Statement::new(&TEXT, [state.into(), None::<i64>.into(), reason.into(), id.into()])
}

/// Fails all unfinished jobs of a task whose row cannot be read, by the text of its id.
pub fn fail_jobs_of_unreadable_task(task: String, reason: &str) -> Statement<'_> {
    static TEXT: Sql = Sql::new(|| {
        let columns = [Job::State, Job::DueAt, Job::Reason];
        let text = build_sql(
            Query::update()
                .table(Job::Table)
                .values(columns.map(set))
                .and_where(eq_param(Job::TaskId))
                .and_where(Expr::col(Job::DueAt).is_not_null()),
        );
        by_index(&text, r#"UPDATE "job""#, index::JOB_DUE)
    });
    Statement::new(&TEXT, [JobState::Failed.into(), None::<i64>.into(), reason.into(), task.into()])
}

/// A claimable job. `attempt` is already the number of the new attempt.
pub struct DueRow {
    pub id: i64,
    pub ordinal: i64,
    pub device: Uuid,
    pub device_name: Option<String>,
    pub attempt: i64,
    /// The job was leased before, and its worker was lost.
    pub lost: bool,
    /// The owner of the expired lease, if the blame for it was not assigned yet.
    pub lost_owner: Option<String>,
    pub outages: u32,
    pub crashes: u32,
    pub suspected: u32,
    pub total: Option<u64>,
    pub progress: Progress,
    pub layout: Option<String>,
}

/// Reads a due job, or the id and the error if its row cannot be read.
pub fn read_due_or_id(row: &Row<'_>) -> Result<std::result::Result<DueRow, (i64, rusqlite::Error)>> {
    read_due(row).map_or_else(|error| Ok(Err((row.get("id")?, error))), |job| Ok(Ok(job)))
}

/// The columns of a due job, in the order in which [`read_due`] reads them.
const DUE_COLUMNS: [Job; 17] = [
    Job::Id,
    Job::Ordinal,
    Job::DeviceId,
    Job::DeviceName,
    Job::State,
    Job::Owner,
    Job::Attempt,
    Job::Outages,
    Job::Crashes,
    Job::Suspected,
    Job::Total,
    Job::Published,
    Job::Quarantined,
    Job::CursorTime,
    Job::CursorKey,
    Job::CursorLayout,
    Job::Delivered,
];

/// Reads the columns of a row one after the other. Claims read thousands of jobs, and finding each
/// column by its name took most of the time of reading them.
struct InOrder<'r, 's> {
    row: &'r Row<'s>,
    next: usize,
}

impl InOrder<'_, '_> {
    fn get<T: FromSql>(&mut self) -> Result<T> {
        self.next += 1;
        self.row.get(self.next - 1)
    }

    fn parse<T: FromStr<Err: std::error::Error>>(&mut self) -> Result<T> {
        self.next += 1;
        let text = self.row.get_ref(self.next - 1)?.as_str()?;
        text.parse().map_err(|error| decode_error(self.row.as_ref().column_name(self.next - 1).unwrap_or_default(), error))
    }
}

fn read_due(row: &Row<'_>) -> Result<DueRow> {
    let mut columns = InOrder { row, next: 0 };
    let (id, ordinal, device, device_name) = (columns.get()?, columns.get()?, columns.parse()?, columns.get()?);
    // A due job that is running has lost its worker.
    let lost = columns.parse::<JobState>()? == JobState::Running;
    let lost_owner = columns.get::<Option<String>>()?.filter(|_| lost);
    let attempt = columns.get::<i64>()? + 1;
    let (outages, crashes, suspected, total) = (columns.get()?, columns.get()?, columns.get()?, columns.get()?);
    let (published, quarantined) = (columns.get()?, columns.get()?);
    let (time, key, layout) = (columns.get::<Option<i64>>()?, columns.get::<Option<String>>()?, columns.get()?);
    let position = time.zip(key).map(|(time_us, key)| Position { time_us, key: key.into() });
    let delivered = delivered(columns.get::<Option<String>>()?)?;
    let progress = Progress { position, published, quarantined, delivered };
    Ok(DueRow {
        id,
        ordinal,
        device,
        device_name,
        attempt,
        lost,
        lost_owner,
        outages,
        crashes,
        suspected,
        total,
        progress,
        layout,
    })
}

/// The column `delivered`; `None` before the first checkpoint, or of an older version.
pub fn delivered(json: Option<String>) -> Result<Delivered> {
    json.map_or_else(
        || Ok(Delivered::default()),
        |json| serde_json::from_str(&json).map_err(|error| decode_error("delivered", error)),
    )
}

/// Changes a job if `attempt` still has the lease.
pub fn write_job<'a>(id: i64, attempt: i64, state: JobState, due_at: Option<i64>, write: &JobWrite<'a>) -> Result<Statement<'a>> {
    static TEXT: Sql = Sql::new(|| {
        let always = [Job::State, Job::DueAt];
        let optional = [
            Job::DeviceName,
            Job::Total,
            Job::CursorTime,
            Job::CursorKey,
            Job::CursorLayout,
            Job::Published,
            Job::Quarantined,
            Job::Outages,
            Job::Crashes,
            Job::Suspected,
            Job::Waiting,
            Job::Unanswered,
            Job::RowsPerSecond,
            Job::Delivered,
            Job::Owner,
            Job::Reason,
        ];
        build_sql(
            Query::update()
                .table(Job::Table)
                .values(always.map(set))
                .values(optional.map(set_or_keep))
                .and_where(eq_param(Job::Id))
                .and_where(eq_param(Job::Attempt))
                .and_where(eq_param(Job::State)),
        )
    });
    let delivered = write.progress.map(|progress| serde_json::to_string(&progress.delivered));
    let delivered = delivered.transpose().map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let position = write.progress.and_then(|progress| progress.position.as_ref());
    let values = [
        state.into(),
        due_at.into(),
        write.name.into(),
        write.total.into(),
        position.map(|position| position.time_us).into(),
        position.map(|position| position.key.to_string()).into(),
        position.and(write.layout).into(),
        write.progress.map(|progress| progress.published).into(),
        write.progress.map(|progress| progress.quarantined).into(),
        write.outages.into(),
        write.outages.map(|_| 0_i64).into(),
        write.outages.map(|_| 0_i64).into(),
        write.waiting.map(i64::from).into(),
        write.unanswered.into(),
        write.rows_per_second.into(),
        delivered.into(),
        write.owner.into(),
        write.reason.into(),
        id.into(),
        attempt.into(),
        JobState::Running.into(),
    ];
    Ok(Statement::new(&TEXT, values))
}
