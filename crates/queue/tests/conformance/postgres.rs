//! What only the PostgreSQL store has: other instances in the same tables, at the same time.

use std::{num::NonZeroU32, time::Duration};

use data_patch_protocol::task::TaskState;
use data_patch_queue::{Clock, OpenError, ProbeError, Queue, QueueOptions, Steer, Submitted};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::{Bench, LEASE, MAX_CRASHES, PostgresSchema, TestStore, progress, task};

async fn execute(connection: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

/// Waits until a session in the store waits for a lock that another one has.
async fn somebody_waits_for_a_lock(store: &PostgresSchema) {
    let mut connection = store.connect().await;
    let blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'
                   AND transactionid = (SELECT transactionid FROM pg_locks WHERE granted AND locktype = 'transactionid' AND pid = $1)";
    let holder: i32 = sqlx::query_scalar(
        "SELECT pid FROM pg_locks JOIN pg_class ON pg_class.oid = relation WHERE relname = 'task' AND mode = 'RowExclusiveLock'
         AND relnamespace = current_schema()::regnamespace ORDER BY pid LIMIT 1",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    let waiting = async {
        while sqlx::query_scalar::<_, i64>(blocked).bind(holder).fetch_one(&mut connection).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("nobody waits");
}

#[tokio::test]
async fn a_task_that_ends_while_a_claim_waits_for_it_stays_ended() {
    if !PostgresSchema::is_available() {
        return;
    }
    let bench = Bench::<PostgresSchema>::new().await;
    let id = bench.submit(1).await;
    let mut other = bench.store.connect().await;
    let mut transaction = other.begin().await.unwrap();
    execute(&mut transaction, format!("UPDATE task SET reason = 'locked' WHERE id = '{id}'")).await;
    let end = format!(
        "UPDATE job SET state = 'cancelled', due_at = NULL WHERE task_id = '{id}';
         UPDATE task SET state = 'cancelled', finished_at = 1 WHERE id = '{id}'"
    );
    let ending = async {
        somebody_waits_for_a_lock(&bench.store).await;
        execute(&mut transaction, end).await;
        transaction.commit().await.unwrap();
    };
    let (leases, ()) = tokio::join!(bench.claim(1), ending);
    assert!(leases.is_empty());
    assert_eq!(bench.state(id).await, TaskState::Cancelled);
}

#[tokio::test]
async fn the_jobs_of_an_instance_that_is_silent_go_on_at_once() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let open = async || {
        let options = QueueOptions { dead_after: Duration::from_secs(2), ..store.options() };
        Queue::open(&options, Clock::System).await.unwrap()
    };
    let (dying, living) = (open().await, open().await);
    let Submitted::Created(id) = dying.submit(task(1, None)).await.unwrap() else { panic!("it exists") };
    let lease = dying.claim(&dying.owner(), || 1, LEASE, MAX_CRASHES).await.unwrap().leases.pop().unwrap();
    lease.checkpoint(progress(3)).await.unwrap();
    assert!(!lease.remaining().is_zero() && lease.remaining() <= Duration::from_secs(2), "{:?}", lease.remaining());
    // Its process is killed: nobody renews its row.
    drop((lease, dying));
    let ended = async {
        while living.expire_leases_of_dead_instances().await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LEASE, ended).await.expect("before its lease ends");
    let lease = living.claim(&living.owner(), || 1, LEASE, MAX_CRASHES).await.unwrap().leases.pop().expect("it is due");
    assert_eq!((lease.job.task.id, lease.job.progress.published, lease.job.attempt), (id, 3, 2));
}

#[tokio::test]
async fn instances_are_listed_with_what_they_work_on_and_drained_by_another() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let open = async || Queue::open(&QueueOptions { version: "9.9".to_owned(), ..store.options() }, Clock::System).await.unwrap();
    let (one, other) = (open().await, open().await);
    one.submit(task(3, None)).await.unwrap();
    one.submit(task(1, None)).await.unwrap();
    let leases = one.claim(&one.owner(), || 4, LEASE, MAX_CRASHES).await.unwrap().leases;
    assert_eq!(leases.len(), 4);

    let listed = other.instances().await.unwrap();
    let work: Vec<_> = listed.iter().map(|instance| (instance.id.as_str(), instance.running, instance.tasks)).collect();
    assert_eq!(work, [(&*one.owner(), 4, 2), (&*other.owner(), 0, 0)]);
    let process = listed[0].process.as_ref().unwrap();
    assert_eq!((process.pid, process.version.as_str()), (std::process::id(), "9.9"));
    assert!(!process.host.is_empty() && process.silent_ms < 5_000 && !listed[0].is_draining, "{process:?}");

    assert!(!other.drain_instance("nobody", true).await.unwrap());
    for drains in [true, false] {
        assert!(other.drain_instance(&one.owner(), drains).await.unwrap());
        assert_eq!(other.instances().await.unwrap()[0].is_draining, drains);
        let noticed = async {
            while one.is_draining() != drains {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LEASE, noticed).await.expect("it does not notice");
    }
    one.close().await;
    assert_eq!(other.instances().await.unwrap().len(), 1, "who has left is not listed");
}

#[tokio::test]
async fn a_rate_is_shared_by_the_instances_that_work_on_the_task() {
    if !PostgresSchema::is_available() {
        return;
    }
    let bench = Bench::<PostgresSchema>::new().await;
    let other = bench.open().await;
    let id = bench.submit(3).await;
    bench.queue.steer(id, Steer::Rate(NonZeroU32::new(9)), None).await.unwrap();
    let own_rate = async || bench.queue.steering().await.unwrap()[0].own_rate().map(NonZeroU32::get);
    assert_eq!(own_rate().await, Some(9), "nobody works on it yet");
    let _leases = bench.claim(1).await;
    assert_eq!(own_rate().await, Some(9));
    let lease = other.claim(&other.owner(), || 1, LEASE, MAX_CRASHES).await.unwrap().leases.pop().unwrap();
    assert_eq!(own_rate().await, Some(4));
    lease.succeed(progress(1)).await.unwrap();
    assert_eq!(own_rate().await, Some(9));
}

#[tokio::test]
async fn instances_share_what_is_meant_for_all_and_those_that_drain_have_no_part() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let one = Queue::open(&store.options(), Clock::System).await.unwrap();
    assert_eq!(one.part_of(5), 5);
    let other = Queue::open(&store.options(), Clock::System).await.unwrap();
    let has_parts = async |parts: [u32; 2]| {
        let noticed = async {
            while [one.part_of(5), other.part_of(5)] != parts {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LEASE, noticed).await.unwrap_or_else(|_| panic!("{parts:?} was not noticed"));
    };
    has_parts([3, 2]).await;
    assert!(other.drain_instance(&one.owner(), true).await.unwrap());
    has_parts([3, 5]).await;
    assert!(other.drain_instance(&one.owner(), false).await.unwrap());
    has_parts([3, 2]).await;
    one.close().await;
    let alone = async {
        while other.part_of(5) != 5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LEASE, alone).await.expect("the other has left");
}

#[tokio::test]
async fn a_lease_is_not_renewed_more_often_because_its_instance_is_soon_dead_if_it_is_silent() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let options = QueueOptions { dead_after: Duration::from_secs(2), ..store.options() };
    let queue = Queue::open(&options, Clock::System).await.unwrap();
    queue.submit(task(1, None)).await.unwrap();
    let lease = queue.claim(&queue.owner(), || 1, Duration::from_mins(10), MAX_CRASHES).await.unwrap().leases.pop().unwrap();
    assert!(!lease.is_renewal_due(), "it lasts for ten minutes; {:?} remain", lease.remaining());
}

/// Claims on a thread of its own, which stops inside the transaction of the claim until `thaw` is
/// dropped, as a process does that is frozen there. Returns the number of leases, once it has gone on.
async fn freeze_in_a_claim(options: QueueOptions) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<usize>) {
    let (thaw, frozen_until) = std::sync::mpsc::channel::<()>();
    let (frozen, is_frozen) = tokio::sync::oneshot::channel();
    let claiming = async move {
        let queue = Queue::open(&options, Clock::System).await.unwrap();
        // Asked for before the transaction, and again in it.
        let state = std::sync::Mutex::new((0, Some(frozen), frozen_until));
        let limits = move || {
            let mut state = state.lock().unwrap();
            state.0 += 1;
            if state.0 == 2 {
                state.1.take().unwrap().send(()).unwrap();
                assert!(state.2.recv().is_err(), "thawed by a drop");
            }
            1
        };
        let claimed = queue.claim(&queue.owner(), limits, LEASE, MAX_CRASHES).await;
        claimed.map_or(0, |claimed| claimed.leases.len())
    };
    let thread = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(claiming)
    });
    is_frozen.await.unwrap();
    (thaw, thread)
}

#[tokio::test]
async fn an_instance_that_is_frozen_in_a_claim_does_not_keep_others_from_claiming() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let options = || QueueOptions { dead_after: Duration::from_secs(2), ..store.options() };
    let living = Queue::open(&options(), Clock::System).await.unwrap();
    living.submit(task(1, None)).await.unwrap();
    let (thaw, frozen) = freeze_in_a_claim(options()).await;
    let claimed = living.claim(&living.owner(), || 1, LEASE, MAX_CRASHES).await.expect("the frozen instance keeps the lock");
    assert_eq!(claimed.leases.len(), 1);
    drop(thaw);
    assert_eq!(tokio::task::spawn_blocking(|| frozen.join().unwrap()).await.unwrap(), 0, "it has lost its transaction");
    claimed.leases[0].checkpoint(progress(1)).await.unwrap();
}

#[tokio::test]
async fn a_queue_of_a_newer_version_is_told() {
    if !PostgresSchema::is_available() {
        return;
    }
    let bench = Bench::<PostgresSchema>::new().await;
    bench.queue.probe().await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations VALUES (9999, 'later', now(), TRUE, '', 0)";
    execute(&mut bench.store.connect().await, newer.to_owned()).await;
    let error = bench.queue.probe().await.unwrap_err();
    assert!(matches!(error, ProbeError::Newer { version: 9999, .. }), "{error}");
    let error = Queue::open(&bench.store.options(), Clock::System).await.err().expect("it opened");
    assert!(matches!(error, OpenError::Newer { version: 9999, .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_answers_nothing_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = QueueOptions::new(format!("postgres://me@{}/queue", listener.local_addr().unwrap()));
    let opened = tokio::time::timeout(Duration::from_mins(1), Queue::open(&options, Clock::System)).await.expect("it hangs");
    let error = opened.err().expect("it opened");
    assert!(matches!(error, OpenError::Unavailable { .. }) && error.to_string().contains("has not answered"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_away_is_told_without_the_password() {
    let options = QueueOptions::new("postgres://me:s3cret@127.0.0.1:1/queue");
    let error = Queue::open(&options, Clock::System).await.err().expect("it opened");
    let text = error.to_string();
    assert!(
        matches!(error, OpenError::Unavailable { .. }) && text.contains("127.0.0.1:1/queue") && !text.contains("s3cret"),
        "{text}"
    );
}
