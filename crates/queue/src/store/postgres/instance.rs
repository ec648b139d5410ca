//! The instances on a queue. Each renews its row every second by the server's clock, and ends the
//! leases of those that have not done so for `dead_after`.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{Shared, claim::end_leases_after_crash, error::Failure, transaction};
use crate::{Clock, policy::millis};

const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// This instance.
#[derive(Debug)]
pub struct Instance {
    pub id: Arc<str>,
    dead_after: Duration,
    renewals: Mutex<Renewals>,
}

/// What is known of the renewals of this instance's row.
#[derive(Debug)]
struct Renewals {
    /// When the last renewal that succeeded was requested.
    last: Instant,
    /// Since when none has failed.
    unbroken_since: Instant,
}

impl Instance {
    pub fn new(dead_after: Duration) -> Self {
        let now = Instant::now();
        let renewals = Mutex::new(Renewals { last: now, unbroken_since: now });
        Self { id: Uuid::new_v4().to_string().into(), dead_after, renewals }
    }

    fn renewals(&self) -> MutexGuard<'_, Renewals> {
        // No code panics while it holds this lock.
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long no other instance takes this one for dead.
    pub fn alive_for(&self, clock: &Clock) -> Duration {
        match clock {
            Clock::System => self.dead_after.saturating_sub(self.renewals().last.elapsed()),
            Clock::Manual(_) => Duration::MAX,
        }
    }

    /// Writes the row of this instance.
    pub async fn renew(&self, shared: &Shared) -> Result<(), Failure> {
        let requested = Instant::now();
        let renewed = self.write(shared).await;
        let mut renewals = self.renewals();
        match &renewed {
            Ok(()) => renewals.last = requested,
            Err(_) => renewals.unbroken_since = Instant::now(),
        }
        renewed
    }

    async fn write(&self, shared: &Shared) -> Result<(), Failure> {
        let mut connection = shared.connections.acquire().await?;
        shared
            .connections
            .answered(async {
                let now_ms = transaction::now(&mut connection, &shared.clock).await?;
                sqlx::query(
                "INSERT INTO instance (id, started_at, seen_at) VALUES ($1, $2, $2) ON CONFLICT (id) DO UPDATE SET seen_at = $2",
            )
            .bind(&*self.id)
            .bind(now_ms)
            .execute(&mut *connection)
            .await
            })
            .await?;
        connection.give_back();
        Ok(())
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
                let ids: Vec<String> =
                    sqlx::query_scalar(sql).bind(now_ms - millis(self.dead_after)).fetch_all(&mut *transaction).await?;
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
