//! A record of each change of a job, written by a trigger, and what must follow from it.

use std::collections::HashMap;

use sqlx::PgConnection;

/// `torture.instance` is a setting of each instance's connections.
const RECORD: &str = "
    CREATE TABLE job_history (n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, instance TEXT, before job, after job);
    CREATE TABLE job_owner (owner TEXT PRIMARY KEY, instance TEXT);
    CREATE FUNCTION record_job() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO job_history (instance, before, after) VALUES (current_setting('torture.instance', TRUE), OLD, NEW);
            IF NEW.attempt > OLD.attempt THEN
                INSERT INTO job_owner VALUES (NEW.owner, current_setting('torture.instance', TRUE)) ON CONFLICT DO NOTHING;
            END IF;
            RETURN NULL;
        END $$;
    CREATE TRIGGER record_job AFTER UPDATE ON job FOR EACH ROW EXECUTE FUNCTION record_job();";

/// Records each change from now on.
pub async fn record(queue: &mut PgConnection) {
    sqlx::raw_sql(RECORD).execute(queue).await.unwrap();
}

/// The number of jobs that an instance has leased.
pub async fn leases(queue: &mut PgConnection, instance: &str) -> usize {
    let sql = "SELECT count(*) FROM job WHERE state = 'running' AND owner IN (SELECT owner FROM job_owner WHERE instance = $1)";
    let leases: i64 = sqlx::query_scalar(sql).bind(instance).fetch_one(queue).await.unwrap();
    usize::try_from(leases).unwrap()
}

/// The number of the last change so far.
pub async fn mark(queue: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT COALESCE(max(n), 0) FROM job_history").fetch_one(queue).await.unwrap()
}

/// The number of running jobs that have not changed since a mark.
pub async fn unchanged(queue: &mut PgConnection, mark: i64) -> i64 {
    let sql = "SELECT count(*) FROM job WHERE state = 'running'
               AND NOT EXISTS (SELECT FROM job_history WHERE n > $1 AND (after).id = job.id)";
    sqlx::query_scalar(sql).bind(mark).fetch_one(queue).await.unwrap()
}

/// A change of a job.
#[derive(Debug)]
struct Change {
    job: i64,
    /// Who has made it.
    instance: String,
    was_attempt: i64,
    attempt: i64,
    was_state: String,
    state: String,
    owner: Option<String>,
    was_progress: Progress,
    progress: Progress,
}

/// Published and quarantined rows, and the position.
type Progress = (i64, i64, Option<i64>);

/// The changes of one job, in the order in which they were made: each holds the lock of the row.
const CHANGES: &str = "
    SELECT (after).id, instance, (before).attempt, (after).attempt, (before).state, (after).state, (after).owner,
        (before).published, (before).quarantined, (before).cursor_time, (after).published, (after).quarantined, (after).cursor_time
    FROM job_history ORDER BY n";

type Row = (i64, String, i64, i64, String, String, Option<String>, i64, i64, Option<i64>, i64, i64, Option<i64>);

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub changes: usize,
    pub claims: usize,
    /// Claims of jobs whose leases others had lost.
    pub takeovers: usize,
}

/// Asserts that a job was only changed by the holder of its last attempt, but for the end of a lease,
/// and that its progress only grows.
pub async fn check(queue: &mut PgConnection) -> Found {
    /// Who has the attempt, and under which name.
    type Holder = (String, Option<String>);
    let (mut holders, mut found) = (HashMap::<i64, Holder>::new(), Found::default());
    for row in sqlx::query_as::<_, Row>(CHANGES).fetch_all(queue).await.unwrap() {
        let change = Change::from(row);
        found.changes += 1;
        let holder = holders.get(&change.job);
        if change.attempt != change.was_attempt {
            assert_eq!(change.attempt, change.was_attempt + 1, "{change:?}");
            assert!(matches!(change.was_state.as_str(), "queued" | "running") && change.state == "running", "{change:?}");
            assert_eq!(change.progress, change.was_progress, "a claim changes no progress: {change:?}");
            found.claims += 1;
            found.takeovers += usize::from(change.was_state == "running");
            holders.insert(change.job, (change.instance, change.owner));
            continue;
        }
        let (instance, name) = holder.unwrap_or_else(|| panic!("a change before the first claim: {change:?}"));
        assert_eq!(change.was_state, "running", "the attempt was over, or the job had ended: {change:?}, attempt of {holder:?}");
        if change.instance == *instance {
            assert!(change.owner.is_none() || change.owner == *name, "{change:?}, attempt of {holder:?}");
            assert!(change.progress >= change.was_progress, "progress goes backwards: {change:?}");
        } else {
            // The lease was ended after a crash: nothing else is written.
            let is_end_of_lease = change.state == "running" && change.owner.is_none() && change.progress == change.was_progress;
            assert!(is_end_of_lease, "written without the lease: {change:?}, attempt of {holder:?}");
        }
    }
    found
}

impl From<Row> for Change {
    fn from(row: Row) -> Self {
        let (job, instance, was_attempt, attempt, was_state, state, owner, p0, q0, c0, p1, q1, c1) = row;
        Self { job, instance, was_attempt, attempt, was_state, state, owner, was_progress: (p0, q0, c0), progress: (p1, q1, c1) }
    }
}
