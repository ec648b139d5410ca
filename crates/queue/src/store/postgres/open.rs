//! Opening the queue: its connections and its migrations.

use std::{
    str::FromStr,
    sync::{Arc, Mutex},
};

use sqlx::{
    ConnectOptions, Connection,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

use super::{
    PostgresStore, Shared,
    connections::Connections,
    error::{ANSWER_TIMEOUT, answered},
    instance,
    lane::Lane,
};
use crate::{OpenError, QueueOptions, store::StoreContext, task::TaskId};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// Connections for writes: the lanes, claims, steering, and the row of this instance.
const WRITE_CONNECTIONS: usize = 5;

impl PostgresStore {
    /// Opens the queue. Creates its tables if there are none, and migrates them.
    pub async fn open(options: &QueueOptions, context: StoreContext) -> Result<Self, OpenError> {
        let name = shown(&options.url);
        let connect = PgConnectOptions::from_str(&options.url)
            .map_err(|source| OpenError::Url { queue: name.clone(), source: source.into() })?
            .application_name("data-patch")
            .disable_statement_logging();
        let unavailable = |failure: super::error::Failure| OpenError::Unavailable { queue: name.clone(), source: failure.error };
        let connection = answered(ANSWER_TIMEOUT, connect.connect()).await.map_err(unavailable)?;
        let _ = connection.close().await;
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(connect.clone());
        // Of several instances that start at once, one migrates and the others wait.
        MIGRATIONS.run(&pool).await.map_err(|error| open_error_of(&name, error))?;
        pool.close().await;

        let StoreContext { clock, hub, metrics } = context;
        let shared = Arc::new(Shared {
            connections: Connections::new(connect, options.read_connections as usize + WRITE_CONNECTIONS, options.dead_after),
            clock,
            hub,
            metrics,
            instance: instance::Instance::new(options.dead_after),
            last_task: Mutex::new(TaskId(Uuid::nil())),
            name: name.clone(),
        });
        shared.instance.renew(&shared).await.map_err(unavailable)?;
        tokio::spawn(instance::renew_until_dropped(Arc::downgrade(&shared)));
        Ok(Self { updates: Lane::start(Arc::clone(&shared)), submits: Lane::start(Arc::clone(&shared)), shared })
    }
}

/// The last migration that this version knows.
pub fn newest_known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// The URL without its password.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "postgres".to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = path.split('?').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

fn open_error_of(queue: &str, error: MigrateError) -> OpenError {
    match error {
        MigrateError::VersionMissing(version) => OpenError::Newer { queue: queue.to_owned(), version },
        source => OpenError::Migrate { queue: queue.to_owned(), source: source.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(shown("postgres://user:se%40cret@host:5432/queue?sslmode=require&password=x"), "postgres://host:5432/queue");
        assert_eq!(shown("postgres:///queue?host=/run&user=u"), "postgres:///queue");
    }
}
