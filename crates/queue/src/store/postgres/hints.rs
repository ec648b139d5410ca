//! Tells the other instances which logs have grown (NOTIFY), and hears it from them (LISTEN).
//!
//! Only hints: whoever misses one finds the entries by polling. A NOTIFY takes a lock over all
//! databases of the server when it commits, so an instance sends at most one in
//! [`NOTIFY_INTERVAL`], in a transaction of its own, and none while it is alone.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use sqlx::{
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
    query, query_scalar,
};
use tokio::sync::Notify;

use super::{Shared, connections::lend};
use crate::task::{LogEntry, TaskId};

const NOTIFY_INTERVAL: Duration = Duration::from_millis(20);
/// Before a broken connection is opened again. Polling stands in.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Ids in a payload, which has at most 8,000 bytes.
const MAX_IDS: usize = 200;

/// The channel of this schema's queue.
macro_rules! channel {
    () => {
        "'grown_logs_' || md5(current_schema())"
    };
}

#[derive(Debug, Default)]
pub struct Hints {
    /// Tasks whose logs have grown here since the last notification.
    grown: Mutex<HashSet<TaskId>>,
    has_grown: Notify,
    /// Notified when another instance says that a log has grown which is followed here.
    heard: Notify,
}

impl Hints {
    fn grown(&self) -> MutexGuard<'_, HashSet<TaskId>> {
        // No code panics while it holds this lock.
        self.grown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of committed entries.
    pub fn add(&self, entries: &[LogEntry]) {
        self.grown().extend(entries.iter().map(|entry| entry.task));
        self.has_grown.notify_one();
    }

    /// Waits for the next hint of another instance.
    pub async fn heard(&self) {
        self.heard.notified().await;
    }
}

/// Sends notifications until the queue is dropped.
pub async fn notify_until_dropped(hints: Arc<Hints>, shared: Weak<Shared>) {
    loop {
        // The time lets a dropped queue be noticed.
        let _ = tokio::time::timeout(Duration::from_secs(1), hints.has_grown.notified()).await;
        let Some(shared) = shared.upgrade() else { return };
        let grown: Vec<TaskId> = hints.grown().drain().collect();
        if !shared.instance.has_others() {
            continue;
        }
        for ids in grown.chunks(MAX_IDS) {
            let ids: Vec<String> = ids.iter().map(|task| task.0.simple().to_string()).collect();
            let payload = format!("{} {}", shared.instance.id, ids.join(" "));
            let notify = query(concat!("SELECT pg_notify(", channel!(), ", $1)")).bind(payload);
            if lend!(shared.connections, connection => notify.execute(connection)).is_err() {
                break;
            }
        }
        tokio::time::sleep(NOTIFY_INTERVAL).await;
    }
}

/// Listens until the queue is dropped.
pub async fn listen_until_dropped(hints: Arc<Hints>, shared: Weak<Shared>, options: PgConnectOptions) {
    while shared.strong_count() > 0 {
        if let Err(error) = listen(&hints, &shared, &options).await {
            tracing::debug!(%error, "the queue's notifications are not heard; its logs are polled");
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    }
}

async fn listen(hints: &Hints, shared: &Weak<Shared>, options: &PgConnectOptions) -> sqlx::Result<()> {
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(5)).connect_lazy_with(options.clone());
    let channel: String = query_scalar(concat!("SELECT ", channel!())).fetch_one(&pool).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(&channel).await?;
    loop {
        let notification = tokio::time::timeout(Duration::from_secs(1), listener.recv()).await;
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        let Ok(notification) = notification else { continue };
        let notification = notification?;
        let mut words = notification.payload().split(' ');
        if words.next() == Some(&*shared.instance.id) {
            continue;
        }
        let followed = shared.hub.subscribed_tasks();
        if words.any(|word| uuid::Uuid::try_parse(word).is_ok_and(|id| followed.contains(&TaskId(id)))) {
            hints.heard.notify_one();
        }
    }
}
