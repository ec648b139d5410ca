//! The instances on a queue. Each renews its row every second by the server's clock, and ends the
//! leases of those that have not done so for `dead_after`.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{Shared, claim::end_leases_after_crash, error::Failure, lane, transaction};
use crate::{Clock, policy::millis};

const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// This instance.
#[derive(Debug)]
pub struct Instance {
    pub id: Arc<str>,
    dead_after: Duration,
    renewals: Mutex<Renewals>,
    /// One renewal at a time.
    renewing: tokio::sync::Mutex<()>,
    /// Jobs and attempts of claims that may have been committed, and that nobody here works on.
    abandoned: Mutex<Vec<(i64, i64)>>,
}

/// What is known of the renewals of this instance's row.
#[derive(Debug)]
struct Renewals {
    /// When the last renewal that succeeded was requested.
    last: Instant,
    /// Since when no other instance can have taken this one for dead.
    alive_since: Instant,
    /// Since when none has failed.
    unbroken_since: Instant,
}

impl Instance {
    pub fn new(dead_after: Duration) -> Self {
        let now = Instant::now();
        let renewals = Mutex::new(Renewals { last: now, alive_since: now, unbroken_since: now });
        let id = Uuid::new_v4().to_string().into();
        Self { id, dead_after, renewals, renewing: tokio::sync::Mutex::default(), abandoned: Mutex::default() }
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

    /// Writes the row of this instance.
    ///
    /// If others may have taken it for dead, all its leases are returned to the queue: its workers
    /// give them up as soon as they notice it, some may have done so already, and others may have
    /// ended them.
    pub async fn renew(&self, shared: &Shared) -> Result<(), Failure> {
        let _one = self.renewing.lock().await;
        let requested = Instant::now();
        let is_silent = || self.alive_for(&shared.clock, Instant::now()).is_zero();
        let mut was_silent = is_silent();
        let abandoned = std::mem::take(&mut *self.abandoned());
        let mut renewed = lane::repeated(|| self.write(shared, was_silent, &abandoned)).await;
        if renewed.is_ok() && !was_silent && is_silent() {
            // The answer came so late that workers may have given up their leases meanwhile.
            was_silent = true;
            renewed = lane::repeated(|| self.write(shared, was_silent, &abandoned)).await;
        }
        if renewed.is_err() {
            self.abandoned().extend(abandoned);
        }
        let mut renewals = self.renewals();
        match renewed {
            Ok(was_dead) => {
                renewals.last = requested;
                if was_silent || was_dead {
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

    /// Returns whether the row was gone: another instance has removed it, and ended the leases.
    async fn write(&self, shared: &Shared, was_silent: bool, abandoned: &[(i64, i64)]) -> Result<bool, Failure> {
        let mut connection = shared.connections.acquire().await?;
        // An answer that comes later is worth nothing.
        let write = shared.connections.answered_within(self.dead_after, async {
            let now_ms = transaction::now(&mut connection, &shared.clock).await?;
            let sql = "UPDATE instance SET seen_at = $2 WHERE id = $1";
            let renewed = sqlx::query(sql).bind(&*self.id).bind(now_ms).execute(&mut *connection).await?.rows_affected();
            if renewed > 0 && !was_silent && abandoned.is_empty() {
                return Ok(false);
            }
            let mut transaction = shared.connections.begin(&mut connection).await?;
            let sql = "INSERT INTO instance (id, started_at, seen_at) VALUES ($1, $2, $2)
                       ON CONFLICT (id) DO UPDATE SET seen_at = $2";
            sqlx::query(sql).bind(&*self.id).bind(now_ms).execute(&mut *transaction).await?;
            let was_dead = renewed == 0;
            let (jobs, attempts): (Vec<i64>, Vec<i64>) = abandoned.iter().copied().unzip();
            sqlx::query(
                "UPDATE job SET state = 'queued', due_at = $2, lease_until = NULL, waiting = FALSE
                 WHERE owner = $1 AND state = 'running' AND lease_until IS NOT NULL
                     AND ($3 OR (id, attempt) IN (SELECT * FROM unnest($4::bigint[], $5::bigint[])))",
            )
            .bind(&*self.id)
            .bind(now_ms)
            .bind(was_silent || was_dead)
            .bind(jobs)
            .bind(attempts)
            .execute(&mut *transaction)
            .await?;
            shared.commit(transaction).await?;
            Ok(was_dead)
        });
        let was_dead = write.await?;
        connection.give_back();
        Ok(was_dead)
    }

    /// Ends the leases of dead instances, and removes their rows. After an outage of the server all
    /// rows are old, so nobody is judged before those who are alive have had time to renew theirs.
    pub async fn end_leases_of_the_dead(&self, shared: &Shared) -> Result<usize, Failure> {
        if self.renewals().unbroken_since.elapsed() < self.dead_after {
            return Ok(0);
        }
        let mut connection = shared.connections.acquire().await?;
        let dead = shared
            .connections
            .answered(async {
                let mut transaction = shared.connections.begin(&mut connection).await?;
                let now_ms = transaction::now(&mut transaction, &shared.clock).await?;
                let sql = "SELECT id FROM instance WHERE seen_at < $1 ORDER BY id FOR UPDATE SKIP LOCKED";
                let mut ids: Vec<String> =
                    sqlx::query_scalar(sql).bind(now_ms - millis(self.dead_after)).fetch_all(&mut *transaction).await?;
                // Whose row was removed just before it committed a claim does not know of the claim, or is dead.
                let sql = "SELECT DISTINCT owner FROM job WHERE state = 'running' AND lease_until IS NOT NULL
                               AND NOT EXISTS (SELECT FROM instance WHERE id = owner) AND owner IS NOT NULL ORDER BY owner";
                ids.extend(sqlx::query_scalar::<_, String>(sql).fetch_all(&mut *transaction).await?);
                let mut dead = Vec::with_capacity(ids.len());
                for id in ids {
                    let leases = end_leases_after_crash(&mut transaction, &id, None, now_ms).await?;
                    sqlx::query("DELETE FROM instance WHERE id = $1").bind(&id).execute(&mut *transaction).await?;
                    dead.push((id, leases));
                }
                shared.commit(transaction).await?;
                Ok(dead)
            })
            .await?;
        connection.give_back();
        for (id, leases) in dead.iter().filter(|(_, leases)| *leases > 0) {
            tracing::warn!(instance = id, leases, "an instance on this queue died; its jobs resume from their checkpoints");
        }
        Ok(dead.iter().map(|(_, leases)| leases).sum())
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
            Err(Failure { error: crate::QueueError::Closed, .. }) => return,
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
