//! The totals of tasks, and their failures.

use rusqlite::Row;
use sea_query::{CaseStatement, Expr, ExprTrait, Order, Query};

use super::{
    Result, Statement, read_task, select_task,
    statement::{Sql, Value, build_sql, by_index, eq_param, set},
};
use crate::{
    TaskRow, TaskTotals,
    store::sqlite::schema::{Job, Task, index},
    task::{Failure, JobCounts, JobState, TaskId},
};

/// The totals of a task.
pub fn task_totals(task: TaskId) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        // CASE instead of GROUP BY, for which SQLite would build a temporary table.
        let jobs_in = |column: &'static str| {
            let one = CaseStatement::new().case(eq_param(Job::State), Expr::cust("1"));
            (Expr::expr(one).count(), column)
        };
        let no_rows = eq_param(Job::State).and(Expr::cust("\"published\" + \"quarantined\" = 0"));
        let empty = CaseStatement::new().case(no_rows, Expr::cust("1"));
        let speed = CaseStatement::new().case(eq_param(Job::State), Expr::col(Job::RowsPerSecond));
        let mut select = Query::select();
        for (count, column) in ["queued", "running", "succeeded", "failed", "cancelled"].map(jobs_in) {
            select.expr_as(count, column);
        }
        let text = build_sql(
            select
                .expr_as(Expr::col(Job::Total).sum(), "counted")
                .expr_as(Expr::col(Job::Total).count(), "counted_jobs")
                .expr_as(Expr::col(Job::Published).sum(), "published")
                .expr_as(Expr::col(Job::Quarantined).sum(), "quarantined")
                .expr_as(Expr::col(Job::Unanswered).sum(), "unanswered")
                .expr_as(Expr::expr(empty).count(), "empty")
                .expr_as(Expr::expr(speed).sum(), "rows_per_second")
                .from(Job::Table)
                .and_where(eq_param(Job::TaskId)),
        );
        by_index(&text, r#"FROM "job""#, index::JOB_TASK)
    });
    let [queued, running, succeeded, failed, cancelled] =
        [JobState::Queued, JobState::Running, JobState::Succeeded, JobState::Failed, JobState::Cancelled].map(Value::from);
    let values =
        [queued, running, succeeded, failed, cancelled, JobState::Succeeded.into(), JobState::Running.into(), task.into()];
    Statement::new(&TEXT, values)
}

pub fn read_task_totals(row: &Row<'_>) -> Result<TaskTotals> {
    let jobs = JobCounts {
        queued: row.get("queued")?,
        running: row.get("running")?,
        succeeded: row.get("succeeded")?,
        failed: row.get("failed")?,
        cancelled: row.get("cancelled")?,
    };
    // The sums of a task without jobs are NULL.
    let rows = |column: &str| row.get::<_, Option<u64>>(column).map(Option::unwrap_or_default);
    Ok(TaskTotals {
        jobs,
        counted: rows("counted")?,
        counted_jobs: row.get("counted_jobs")?,
        published: rows("published")?,
        quarantined: rows("quarantined")?,
        unanswered: rows("unanswered")?,
        empty: row.get("empty")?,
        rows_per_second: row.get::<_, Option<f64>>("rows_per_second")?.unwrap_or_default(),
    })
}

/// Stores the totals of a task that is about to finish.
///
/// # Errors
/// They cannot be encoded as JSON.
pub fn store_totals(task: TaskId, totals: &TaskTotals) -> Result<Statement<'static>> {
    static TEXT: Sql =
        Sql::new(|| build_sql(Query::update().table(Task::Table).values([set(Task::Totals)]).and_where(eq_param(Task::Id))));
    let totals = serde_json::to_string(totals).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    Ok(Statement::new(&TEXT, [totals.into(), task.into()]))
}

/// A task with its stored totals.
pub fn task_with_totals(task: TaskId) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| build_sql(select_task().column(Task::Totals).and_where(eq_param(Task::Id))));
    Statement::new(&TEXT, [task.into()])
}

/// A task, and its totals unless it is unfinished or an older version finished it.
pub fn read_task_with_totals(row: &Row<'_>) -> Result<(TaskRow, Option<TaskTotals>)> {
    let totals: Option<String> = row.get("totals")?;
    Ok((read_task(row)?, totals.and_then(|totals| serde_json::from_str(&totals).ok())))
}

pub fn failures(task: TaskId, limit: u64) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        build_sql(
            Query::select()
                .columns([Job::DeviceId, Job::Reason])
                .from(Job::Table)
                .and_where(eq_param(Job::TaskId))
                .and_where(eq_param(Job::State))
                .order_by(Job::Ordinal, Order::Asc)
                .limit(0),
        )
    });
    Statement::new(&TEXT, [task.into(), JobState::Failed.into(), limit.into()])
}

pub fn read_failure(row: &Row<'_>) -> Result<Failure> {
    let reason = row.get::<_, Option<String>>("reason")?.unwrap_or_default();
    Ok(Failure { device: row.get("device_id")?, reason })
}
