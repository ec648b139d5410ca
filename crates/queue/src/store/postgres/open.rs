//! Opening the queue: its connections and its migrations.

use std::{
    str::FromStr,
    sync::{Arc, Mutex},
};

use sqlx::{
    ConnectOptions, Connection, Row,
    error::DatabaseError,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
    raw_sql,
};
use uuid::Uuid;

use super::{
    PostgresStore, Shared,
    connections::Connections,
    error::{Failure, answered},
    hints, instance,
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
        let unavailable = |failure: Failure| OpenError::Unavailable { queue: name.clone(), source: failure.error };
        let connect = connect_options(&options.url).await?;
        migrate(connect.clone(), &name).await?;

        let StoreContext { clock, hub, metrics } = context;
        let shared = Arc::new(Shared {
            connections: Connections::new(
                connect.clone(),
                options.read_connections as usize + WRITE_CONNECTIONS,
                options.dead_after,
            ),
            clock,
            hub,
            metrics,
            instance: instance::Instance::new(options.dead_after, options.version.clone()),
            hints: Arc::default(),
            last_task: Mutex::new(TaskId(Uuid::nil())),
            name: name.clone(),
        });
        shared.instance.renew(&shared).await.map_err(unavailable)?;
        tokio::spawn(instance::renew_until_dropped(Arc::downgrade(&shared)));
        let hints = Arc::clone(&shared.hints);
        tokio::spawn(hints::notify_until_dropped(Arc::clone(&hints), Arc::downgrade(&shared)));
        tokio::spawn(hints::listen_until_dropped(hints, Arc::downgrade(&shared), connect));
        Ok(Self { updates: Lane::start(Arc::clone(&shared)), submits: Lane::start(Arc::clone(&shared)), shared })
    }
}

/// Every statement finds its rows by an index. So the planner needs no statistics, which a new table
/// lacks, and which say nothing of a table that has grown since: without these, claims from a new
/// queue read all of its jobs.
const PLANNER: [(&str, &str); 5] =
    [("enable_seqscan", "off"), ("enable_sort", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off"), ("jit", "off")];

/// How the server of a URL, which answers, is connected to.
pub async fn connect_options(url: &str) -> Result<PgConnectOptions, OpenError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|source| OpenError::Url { queue: shown(url), source: source.into() })?
        .application_name("data-patch")
        // No number is read as text, and a pooler would reject the option.
        .extra_float_digits(None)
        .disable_statement_logging();
    behind_pooler_or_not(options, &shown(url)).await
}

/// The options as far as a pooler, if there is one, accepts them.
async fn behind_pooler_or_not(options: PgConnectOptions, name: &str) -> Result<PgConnectOptions, OpenError> {
    let unavailable = |failure: Failure| OpenError::Unavailable { queue: name.to_owned(), source: failure.error };
    let with_options = options.clone().options(PLANNER);
    let connected = answered(async { Ok(with_options.connect().await) }).await.map_err(unavailable)?;
    let direct = match connected {
        Ok(connection) => Some(connection),
        // protocol_violation: a pooler rejects the options of a session.
        Err(error) if error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == "08P01") => None,
        Err(error) => return Err(unavailable(error.into())),
    };
    if let Some(connection) = direct {
        let _ = connection.close().await;
        return Ok(with_options);
    }
    if answered(shares_sessions(&options)).await.map_err(unavailable)? {
        return Err(OpenError::SharedSessions { queue: name.to_owned() });
    }
    tracing::info!("the queue's PostgreSQL is behind a pooler, in session mode");
    Ok(options)
}

/// Whether a pooler runs the transactions of one client in sessions of another: whether one sees what
/// another has set in its session.
async fn shares_sessions(options: &PgConnectOptions) -> sqlx::Result<bool> {
    let (mut one, mut other) = (options.connect().await?, options.connect().await?);
    raw_sql("SELECT set_config('data_patch.session', 'of one', false)").execute(&mut one).await?;
    let seen = raw_sql("SELECT current_setting('data_patch.session', true) AS seen").fetch_one(&mut other).await?;
    let seen: Option<String> = seen.try_get("seen")?;
    raw_sql("SELECT set_config('data_patch.session', '', false)").execute(&mut one).await?;
    for connection in [one, other] {
        let _ = connection.close().await;
    }
    Ok(seen.as_deref() == Some("of one"))
}

/// Migrates the tables. Of several instances that start at once, one migrates and the others wait.
pub async fn migrate(options: PgConnectOptions, name: &str) -> Result<(), OpenError> {
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    let migrated = MIGRATIONS.run(&pool).await;
    pool.close().await;
    migrated.map_err(|error| open_error_of(name, error))
}

/// The last migration that this version knows.
pub fn newest_known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// The URL without its password.
pub fn shown(url: &str) -> String {
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
