//! The stores, and a queue on a clock that is moved by hand.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::TimeZone;
use data_patch_protocol::task::{NewTask, Position, Progress, TaskId, TaskState};
use data_patch_queue::{Checkpoint, Clock, DeviceCount, Lease, Queue, QueueOptions, Submitted};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

/// Runs each of the tests on each store. A test that is named nowhere is dead code, which the compiler reports.
macro_rules! on_every_store {
    ($($test:ident),+ $(,)?) => {
        // Stores: a line each, with the name that their tests get.
        $crate::support::on_store!(sqlite, SqliteFile, $($test),+);
        $crate::support::on_store!(postgres, PostgresSchema, $($test),+);
    };
}

macro_rules! on_store {
    ($name:ident, $store:ident, $($test:ident),+) => {
        mod $name {
            $(
                #[tokio::test]
                async fn $test() {
                    if <$crate::support::$store as $crate::support::TestStore>::is_available() {
                        super::$test::<$crate::support::$store>().await;
                    }
                }
            )+
        }
    };
}

pub(crate) use {on_every_store, on_store};

/// A store of one kind, for one test. Dropping it removes it.
pub trait TestStore: Sized + 'static {
    /// Whether there is a server to test on.
    fn is_available() -> bool {
        true
    }

    async fn create() -> Self;

    fn options(&self) -> QueueOptions;

    /// An instance on this store. All instances see the same tasks.
    async fn open(&self, clock: Clock) -> Queue {
        Queue::open(&self.options(), clock).await.unwrap()
    }
}

pub struct SqliteFile {
    folder: TempDir,
}

impl SqliteFile {
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("queue.db")
    }
}

impl TestStore for SqliteFile {
    async fn create() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> QueueOptions {
        options(&self.path())
    }
}

/// The options for a queue file.
pub fn options(path: &Path) -> QueueOptions {
    QueueOptions::new(format!("sqlite://{}", path.display()))
}

/// A schema on the server that `DATA_PATCH_TEST_POSTGRES` names (`scripts/services up`).
pub struct PostgresSchema {
    server: String,
    name: String,
}

impl PostgresSchema {
    fn server() -> Option<String> {
        std::env::var("DATA_PATCH_TEST_POSTGRES").ok().filter(|url| !url.is_empty())
    }

    pub fn url(&self) -> String {
        format!("{}?options[search_path]={}", self.server, self.name)
    }

    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.unwrap()
    }
}

impl TestStore for PostgresSchema {
    fn is_available() -> bool {
        Self::server().is_some()
    }

    async fn create() -> Self {
        let (server, name) = (Self::server().unwrap(), format!("queue_{}", Uuid::new_v4().simple()));
        let store = Self { server, name };
        let create = format!("CREATE SCHEMA {}", store.name);
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut store.connect().await).await.unwrap();
        store
    }

    fn options(&self) -> QueueOptions {
        QueueOptions { read_connections: 2, ..QueueOptions::new(self.url()) }
    }
}

impl Drop for PostgresSchema {
    fn drop(&mut self) {
        let (url, sql) = (self.url(), format!("DROP SCHEMA {} CASCADE", self.name));
        // A test that has failed may have left its runtime in any state.
        let drop_schema = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let mut connection = PgConnection::connect(&url).await?;
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await
            })
        });
        if let Ok(Err(error)) = drop_schema.join() {
            eprintln!("a test's schema is left: {error}");
        }
    }
}

pub const MAX_CRASHES: u32 = 2;
pub const LEASE: Duration = Duration::from_secs(10);

/// A queue of its own, and a clock that is moved by hand.
pub struct Bench<S> {
    pub queue: Queue,
    pub now: Arc<AtomicI64>,
    pub owner: Arc<str>,
    pub store: S,
}

impl<S: TestStore> Bench<S> {
    pub async fn new() -> Self {
        let (store, now) = (S::create().await, Arc::new(AtomicI64::new(1_000_000)));
        let queue = store.open(Clock::Manual(Arc::clone(&now))).await;
        Self { queue, now, owner: "one".into(), store }
    }

    /// Another instance on the same store and clock.
    pub async fn open(&self) -> Queue {
        self.store.open(Clock::Manual(Arc::clone(&self.now))).await
    }
}

impl<S> Bench<S> {
    pub fn pass(&self, time: Duration) {
        self.now.fetch_add(time.as_millis() as i64, Ordering::SeqCst);
    }

    pub async fn submit(&self, devices: usize) -> TaskId {
        match self.queue.submit(task(devices, None)).await.unwrap() {
            Submitted::Created(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub async fn claim(&self, limit: usize) -> Vec<Lease> {
        self.queue.claim(&self.owner, move || limit, LEASE, MAX_CRASHES).await.unwrap().leases
    }

    pub async fn claim_one(&self) -> Lease {
        self.claim(1).await.pop().expect("nothing to claim")
    }

    pub async fn log(&self, task: TaskId) -> Vec<String> {
        let events = self.queue.log_after(task, 0, 10_000).await.unwrap();
        assert!(events.iter().zip(1..).all(|(event, seq)| event.seq == seq), "{events:?}");
        events.into_iter().map(|entry| entry.event.to_string()).collect()
    }

    pub async fn state(&self, task: TaskId) -> TaskState {
        self.queue.task(task).await.unwrap().unwrap().state
    }
}

pub fn task(devices: usize, request_id: Option<&str>) -> NewTask {
    let time = chrono::Utc.with_ymd_and_hms(2019, 1, 11, 0, 0, 0).unwrap();
    NewTask {
        thing: Uuid::new_v4(),
        devices: (0..devices).map(|_| Uuid::new_v4()).collect(),
        topic: "t".to_owned(),
        from: time,
        to: time,
        request_id: request_id.map(str::to_owned),
        reason: None,
        rate: None,
    }
}

pub fn progress(rows: u64) -> Checkpoint {
    let position = Position { time_us: rows.cast_signed(), key: rows.to_string().into() };
    Checkpoint {
        progress: Progress { position: Some(position), published: rows, quarantined: 0, ..Progress::default() },
        ..Checkpoint::default()
    }
}

pub fn counted(name: Option<&str>, total: u64) -> Checkpoint {
    Checkpoint { counted: Some(DeviceCount { name: name.map(str::to_owned), total }), ..Checkpoint::default() }
}
