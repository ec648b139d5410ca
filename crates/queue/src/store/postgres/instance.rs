//! The instances on a queue. Each renews its row every second by the server's clock, and ends the
//! leases of those that have not done so for `dead_after`.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{PgConnection, Result as SqlResult, Row, postgres::PgRow, query, query_scalar};
use uuid::Uuid;

use super::{
    Shared,
    claim::end_leases_after_crash,
    connections::{lend, transact},
    error::{Failure, Remedy},
    lane,
    rows::number,
    transaction::{self, now_ms},
};
use crate::{
    Clock, InstanceProcess, InstanceRow, QueueError,
    instances::{Place, host_name},
    policy::millis,
};

/// Leases of owners without a row: it was removed just before a claim was committed. The owner
/// gives such a claim up, or is dead.
macro_rules! of_nobody {
    () => {
        "state = 'running' AND lease_until IS NOT NULL AND owner IS NOT NULL \
         AND NOT EXISTS (SELECT FROM instance AS holder WHERE holder.id = job.owner)"
    };
}

const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// This instance.
#[derive(Debug)]
pub struct Instance {
    pub id: Arc<str>,
    host: String,
    version: String,
    dead_after: Duration,
    renewals: Mutex<Renewals>,
    /// One renewal at a time. Set once the instance leaves: its row must not be written again.
    renewing: tokio::sync::Mutex<bool>,
    /// Jobs and attempts of claims that may have been committed, and that nobody here works on.
    abandoned: Mutex<Vec<(i64, i64)>>,
    is_draining: AtomicBool,
    /// There are others that are alive.
    has_others: AtomicBool,
    pub place: Place,
    /// There are others that are dead.
    has_dead: AtomicBool,
}

/// What is known of the renewals of this instance's row.
#[derive(Debug)]
struct Renewals {
    /// When the last renewal that succeeded was requested.
    last: Instant,
    /// Since when no other instance can have taken this one for dead.
    alive_since: Instant,
    /// When its row was made, by the server's clock. Others remove the row of an instance that they
    /// take for dead.
    row_made_at: Option<i64>,
    /// Since when none has failed.
    unbroken_since: Instant,
}

impl Instance {
    pub fn new(dead_after: Duration, version: String) -> Self {
        let now = Instant::now();
        Self {
            id: Uuid::new_v4().to_string().into(),
            host: host_name(),
            version,
            dead_after,
            renewals: Mutex::new(Renewals { last: now, alive_since: now, row_made_at: None, unbroken_since: now }),
            renewing: tokio::sync::Mutex::default(),
            abandoned: Mutex::default(),
            is_draining: AtomicBool::new(false),
            has_others: AtomicBool::new(false),
            place: Place::default(),
            has_dead: AtomicBool::new(false),
        }
    }

    fn renewals(&self) -> MutexGuard<'_, Renewals> {
        // No code panics while it holds this lock.
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abandoned(&self) -> MutexGuard<'_, Vec<(i64, i64)>> {
        // No code panics while it holds this lock.
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long no other instance takes this one for dead, and with it a lease that was claimed
    /// or renewed at `confirmed_at`. Zero if that may have happened since, even if it is over.
    pub fn alive_for(&self, clock: &Clock, confirmed_at: Instant) -> Duration {
        let renewals = self.renewals();
        match clock {
            Clock::System if confirmed_at < renewals.alive_since => Duration::ZERO,
            Clock::System => self.dead_after.saturating_sub(renewals.last.elapsed()),
            Clock::Manual(_) => Duration::MAX,
        }
    }

    /// Whether this instance has to renew its row before it claims jobs.
    pub fn needs_renewal(&self, clock: &Clock) -> bool {
        self.alive_for(clock, Instant::now()).is_zero() || !self.abandoned().is_empty()
    }

    /// Returns jobs to the queue with the next renewal, if these attempts have them.
    pub fn abandon(&self, jobs: impl IntoIterator<Item = (i64, i64)>) {
        self.abandoned().extend(jobs);
    }

    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Whether other instances are alive, as far as is known.
    pub fn has_others(&self) -> bool {
        self.has_others.load(Ordering::Relaxed)
    }

    /// Writes the row of this instance, and looks at those of the others.
    ///
    /// If others may have taken it for dead, all its leases are returned to the queue: its workers
    /// give them up as soon as they notice it, some may have done so already, and others may have
    /// ended them.
    pub async fn renew(&self, shared: &Shared) -> Result<(), Failure> {
        let has_left = self.renewing.lock().await;
        if *has_left {
            return Err(Failure { error: QueueError::Closed, remedy: Remedy::Wait });
        }
        let requested = Instant::now();
        let renewed = self.write_and_release(shared).await;
        let mut renewals = self.renewals();
        match renewed {
            Ok((row_made_at, was_over)) => {
                renewals.last = requested;
                renewals.row_made_at = Some(row_made_at);
                if was_over {
                    renewals.alive_since = Instant::now();
                }
                Ok(())
            }
            Err(failure) => {
                renewals.unbroken_since = Instant::now();
                Err(failure)
            }
        }
    }

    /// Returns all leases to the queue, and removes the row for good. Returns the number of leases.
    pub async fn leave(&self, shared: &Shared) -> Result<usize, Failure> {
        *self.renewing.lock().await = true;
        let released = self.release(shared, true, &[]).await?;
        let delete = query("DELETE FROM instance WHERE id = $1").bind(&*self.id);
        lend!(shared.connections, connection => delete.execute(connection))?;
        Ok(released)
    }

    /// Returns when the row was made, and whether the leases were over.
    async fn write_and_release(&self, shared: &Shared) -> Result<(i64, bool), Failure> {
        let is_silent = || self.alive_for(&shared.clock, Instant::now()).is_zero();
        let was_silent = is_silent();
        let row_made_at = self.write(shared).await?;
        let was_dead = self.renewals().row_made_at.is_some_and(|known| known != row_made_at);
        // The answer may have come so late that workers have given up their leases meanwhile.
        let was_over = was_silent || was_dead || is_silent();
        let abandoned = std::mem::take(&mut *self.abandoned());
        if was_over || !abandoned.is_empty() {
            let released = lane::repeated(|| self.release(shared, was_over, &abandoned)).await;
            if let Err(failure) = released {
                self.abandon(abandoned);
                return Err(failure);
            }
        }
        Ok((row_made_at, was_over))
    }

    /// Returns leases of this instance to the queue: all, or these jobs and attempts. Returns their
    /// number.
    async fn release(&self, shared: &Shared, all: bool, abandoned: &[(i64, i64)]) -> Result<usize, Failure> {
        let (jobs, attempts): (Vec<i64>, Vec<i64>) = abandoned.iter().copied().unzip();
        let sql = concat!(
            "UPDATE job SET state = 'queued', due_at = ",
            now_ms!("$2"),
            ", lease_until = NULL, waiting = FALSE
             WHERE owner = $1 AND state = 'running' AND lease_until IS NOT NULL
                 AND ($3 OR (id, attempt) IN (SELECT * FROM unnest($4::bigint[], $5::bigint[])))"
        );
        let release = query(sql).bind(&*self.id).bind(shared.clock.manual_ms()).bind(all).bind(jobs).bind(attempts);
        let released = lend!(shared.connections, connection => release.execute(connection))?;
        Ok(released.rows_affected() as usize)
    }

    /// Returns when the row was made.
    async fn write(&self, shared: &Shared) -> Result<i64, Failure> {
        let sql = concat!(
            "INSERT INTO instance AS own (id, host, pid, version, started_at, seen_at)
             SELECT $1, $2, $3, $4, now, now FROM (SELECT ",
            now_ms!("$5"),
            " AS now) AS clock
             ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
             RETURNING started_at, is_draining,
                 (SELECT ARRAY[count(*), count(*) FILTER (WHERE NOT is_draining),
                     count(*) FILTER (WHERE NOT is_draining AND (other.started_at, other.id) < (own.started_at, own.id))]
                  FROM instance AS other WHERE id <> own.id AND other.seen_at >= own.seen_at - $6) AS others,
                 EXISTS (SELECT FROM instance AS other WHERE id <> own.id AND other.seen_at < own.seen_at - $6)
                     OR EXISTS (SELECT FROM job WHERE ",
            of_nobody!(),
            ") AS has_dead"
        );
        let mut connection = shared.connections.acquire().await?;
        let write = query(sql)
            .bind(&*self.id)
            .bind(&self.host)
            .bind(i64::from(std::process::id()))
            .bind(&self.version)
            .bind(shared.clock.manual_ms())
            .bind(millis(self.dead_after));
        // An answer that comes later is worth nothing.
        let row = shared.connections.answered_within(self.dead_after, write.fetch_one(&mut *connection)).await?;
        connection.give_back();
        let set = |flag: &AtomicBool, column: &str| row.try_get(column).map(|is_set| flag.store(is_set, Ordering::Relaxed));
        set(&self.is_draining, "is_draining")?;
        set(&self.has_dead, "has_dead")?;
        let [alive, working, before] = row.try_get::<[i64; 3], _>("others")?;
        self.has_others.store(alive > 0, Ordering::Relaxed);
        let number = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
        self.place.set(number(before), number(working));
        Ok(row.try_get("started_at")?)
    }

    /// Ends the leases of dead instances, and removes their rows. After an outage of the server all
    /// rows are old, so nobody is judged before those who are alive have had time to renew theirs.
    pub async fn end_leases_of_the_dead(&self, shared: &Shared) -> Result<usize, Failure> {
        if !self.has_dead.load(Ordering::Relaxed) || self.renewals().unbroken_since.elapsed() < self.dead_after {
            return Ok(0);
        }
        let dead = transact!(shared, transaction => { self.remove_dead(&mut transaction, shared).await? })?;
        for (id, leases) in dead.iter().filter(|(_, leases)| *leases > 0) {
            tracing::warn!(instance = id, leases, "an instance on this queue died; its jobs resume from their checkpoints");
        }
        Ok(dead.iter().map(|(_, leases)| leases).sum())
    }

    async fn remove_dead(&self, connection: &mut PgConnection, shared: &Shared) -> SqlResult<Vec<(String, usize)>> {
        let now_ms = transaction::now(connection, &shared.clock).await?;
        let sql = "SELECT id FROM instance WHERE seen_at < $1 ORDER BY id FOR UPDATE SKIP LOCKED";
        let silent_since = now_ms - millis(self.dead_after);
        let mut ids: Vec<String> = query_scalar(sql).bind(silent_since).fetch_all(&mut *connection).await?;
        let sql = concat!("SELECT DISTINCT owner FROM job WHERE ", of_nobody!(), " ORDER BY owner");
        ids.extend(query_scalar::<_, String>(sql).fetch_all(&mut *connection).await?);
        let mut dead = Vec::with_capacity(ids.len());
        for id in ids {
            let leases = end_leases_after_crash(connection, &id, None, now_ms).await?;
            query("DELETE FROM instance WHERE id = $1").bind(&id).execute(&mut *connection).await?;
            dead.push((id, leases));
        }
        Ok(dead)
    }
}

/// Renews the row of this instance until the queue is dropped.
pub async fn renew_until_dropped(shared: Weak<Shared>) {
    let mut ticks = tokio::time::interval(RENEWAL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_broken = false;
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        if matches!(shared.clock, Clock::Manual(_)) {
            return;
        }
        match shared.instance.renew(&shared).await {
            Err(Failure { error: QueueError::Closed, .. }) => return,
            Err(failure) if !is_broken => {
                is_broken = true;
                tracing::warn!(error = %failure.error, "the queue's PostgreSQL is not available: jobs stop when their leases cannot be kept, and go on when it is back");
            }
            Ok(()) if is_broken => {
                is_broken = false;
                tracing::info!("the queue's PostgreSQL is available again");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// All instances, with what they work on.
pub async fn list(connection: &mut PgConnection, clock: &Clock) -> SqlResult<Vec<InstanceRow>> {
    let sql = concat!(
        "SELECT COALESCE(instance.id, job.owner) AS id, host, pid, version, started_at, COALESCE(is_draining, FALSE) AS is_draining,
             GREATEST(", now_ms!("$1"), " - seen_at, 0) AS silent, COALESCE(running, 0) AS running, COALESCE(tasks, 0) AS tasks
         FROM instance FULL JOIN (
             SELECT owner, count(*) AS running, count(DISTINCT task_id) AS tasks FROM job
             WHERE state = 'running' AND owner IS NOT NULL GROUP BY owner
         ) AS job ON job.owner = instance.id
         ORDER BY started_at, 1"
    );
    query(sql).bind(clock.manual_ms()).fetch_all(connection).await?.iter().map(read).collect()
}

fn read(row: &PgRow) -> SqlResult<InstanceRow> {
    let host: Option<String> = row.try_get("host")?;
    let process = host.map(|host| {
        Ok::<_, sqlx::Error>(InstanceProcess {
            host,
            pid: number(row, "pid")?,
            version: row.try_get("version")?,
            started_at_ms: row.try_get("started_at")?,
            silent_ms: number(row, "silent")?,
        })
    });
    Ok(InstanceRow {
        id: row.try_get("id")?,
        process: process.transpose()?,
        is_draining: row.try_get("is_draining")?,
        running: number(row, "running")?,
        tasks: number(row, "tasks")?,
    })
}

/// Asks an instance to hand its jobs back, or to go on. Returns whether it exists.
pub async fn drain(connection: &mut PgConnection, id: &str, drains: bool) -> SqlResult<bool> {
    let drain = query("UPDATE instance SET is_draining = $2 WHERE id = $1").bind(id).bind(drains);
    Ok(drain.execute(connection).await?.rows_affected() > 0)
}
