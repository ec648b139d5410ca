//! Where the queue of a test is: a file in its folder, or, if `DATA_PATCH_TEST_QUEUE` names a
//! PostgreSQL database, a schema of its own there.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    sync::{Mutex, PoisonError},
};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

fn hash(folder: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    hasher.finish()
}

/// The queue of the services that share `folder`.
pub fn queue_url(folder: &TempDir) -> String {
    queue_url_at(folder.path())
}

/// As [`queue_url`], of the path of the folder.
pub fn queue_url_at(folder: &Path) -> String {
    static CREATED: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let Some(server) = super::real("QUEUE") else {
        return format!("sqlite://{}", folder.join("queue.db").display());
    };
    let schema = format!("it_{:016x}", hash(folder));
    let mut created = CREATED.lock().unwrap_or_else(PoisonError::into_inner);
    if created.get_or_insert_default().insert(schema.clone()) {
        let (server, sql) = (server.clone(), format!("CREATE SCHEMA IF NOT EXISTS {schema}"));
        let create = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let mut connection = PgConnection::connect(&server).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
            });
        });
        create.join().unwrap();
    }
    format!("{server}?options[search_path]={schema}")
}
