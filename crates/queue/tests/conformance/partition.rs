//! An instance in PostgreSQL whose connections break, or that cannot renew its row.

use std::time::{Duration, Instant};

use data_patch_queue::{Checkpoint, Clock, DeviceCount, Lease, Queue, QueueOptions, Submitted};
use sqlx::PgConnection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::support::{MAX_CRASHES, PostgresSchema, TestStore, progress, task};

/// Much longer than anything here is waited for.
const LONG_LEASE: Duration = Duration::from_mins(10);
const DEAD_AFTER: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(20);

/// What happens to the connections that are open; new ones pass.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Break {
    None,
    Closed,
    /// Nothing passes any more, and neither side is told: a firewall has lost its state.
    Silent,
    /// The next COMMIT is made, and its answer is lost.
    AtCommit,
}

/// A queue with several idle connections, which are broken by the sender.
async fn with_idle_connections(store: &PostgresSchema) -> (Queue, watch::Sender<Break>) {
    let url = store.url();
    let server = url.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = QueueOptions::new(url.replacen(&server, &listener.local_addr().unwrap().to_string(), 1));
    let breaking = watch::Sender::new(Break::None);
    let sender = breaking.clone();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(pass(client, TcpStream::connect(server.clone()).await.unwrap(), sender.clone()));
        }
    });
    let queue = Queue::open(&options, Clock::System).await.unwrap();
    for read in futures_util::future::join_all((0..8).map(|_| queue.backlog())).await {
        read.unwrap();
    }
    (queue, breaking)
}

async fn pass(mut client: TcpStream, mut server: TcpStream, breaking: watch::Sender<Break>) {
    let mut broken = breaking.subscribe();
    let (mut asked, mut answer) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(bytes @ 1..) = read else { return };
                server.write_all(&asked[..bytes]).await.unwrap();
                let commits = asked[..bytes].windows(6).any(|word| word == b"COMMIT");
                if commits && breaking.send_if_modified(|now| *now == Break::AtCommit && { *now = Break::None; true }) {
                    // It was made once it is answered.
                    let _ = server.read(&mut answer).await;
                    return;
                }
            }
            read = server.read(&mut answer) => {
                let Ok(bytes @ 1..) = read else { return };
                client.write_all(&answer[..bytes]).await.unwrap();
            }
            Ok(()) = broken.changed() => match *broken.borrow_and_update() {
                Break::Closed => return,
                Break::Silent => break,
                Break::None | Break::AtCommit => {}
            },
        }
    }
    std::future::pending::<()>().await;
}

async fn open(store: &PostgresSchema) -> Queue {
    Queue::open(&QueueOptions { dead_after: DEAD_AFTER, ..store.options() }, Clock::System).await.unwrap()
}

async fn claim(queue: &Queue) -> Option<Lease> {
    queue.claim(&queue.owner(), || 1, LONG_LEASE, MAX_CRASHES).await.unwrap().leases.pop()
}

/// Claims until there is something.
async fn claimed(queue: &Queue) -> Lease {
    let claiming = async {
        loop {
            match claim(queue).await {
                Some(lease) => return lease,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(TIMEOUT, claiming).await.expect("there is nothing to claim")
}

/// Keeps all instances from renewing their rows, and returns when a lease is over for that.
async fn keep_from_renewing(connection: &mut PgConnection, lease: &Lease) {
    sqlx::raw_sql("BEGIN; LOCK TABLE instance IN SHARE MODE").execute(connection).await.unwrap();
    while !lease.remaining().is_zero() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn let_renew(connection: &mut PgConnection) {
    sqlx::raw_sql("COMMIT").execute(connection).await.unwrap();
}

#[tokio::test]
async fn connections_that_were_closed_fail_one_operation_at_the_most() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let (queue, breaking) = with_idle_connections(&store).await;
    breaking.send_replace(Break::Closed);
    let mut failed = 0;
    for _ in 0..8 {
        failed += usize::from(queue.backlog().await.is_err());
    }
    assert!(failed <= 1, "{failed} operations failed");
}

#[tokio::test]
async fn connections_that_are_silent_for_ever_cost_one_timeout() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let (queue, breaking) = with_idle_connections(&store).await;
    breaking.send_replace(Break::Silent);
    let answered = async { while queue.backlog().await.is_err() {} };
    // An answer is waited for for ten seconds.
    tokio::time::timeout(Duration::from_secs(15), answered).await.expect("one silent connection was tried after the other");
}

#[tokio::test]
async fn an_instance_that_may_count_as_dead_claims_nothing() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let queue = open(&store).await;
    queue.submit(task(2, None)).await.unwrap();
    let (lease, mut other) = (claimed(&queue).await, store.connect().await);
    keep_from_renewing(&mut other, &lease).await;
    let claim = tokio::time::timeout(Duration::from_secs(1), queue.claim(&queue.owner(), || 1, LONG_LEASE, MAX_CRASHES)).await;
    if let Ok(Ok(claimed)) = claim {
        assert!(claimed.leases.is_empty(), "the leases were over at once: {:?}", claimed.leases[0].remaining());
    }
    let_renew(&mut other).await;
    assert!(!claimed(&queue).await.remaining().is_zero());
}

#[tokio::test]
async fn a_lease_that_was_over_while_its_instance_was_silent_stays_over_and_its_job_goes_on_at_once() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let queue = open(&store).await;
    queue.submit(task(1, None)).await.unwrap();
    let (lease, mut other) = (claimed(&queue).await, store.connect().await);
    lease.checkpoint(progress(3)).await.unwrap();
    keep_from_renewing(&mut other, &lease).await;
    let_renew(&mut other).await;
    // Nobody else has taken it over, and its worker has given it up.
    let again = claimed(&queue).await;
    assert_eq!((again.job.attempt, again.job.progress.published), (2, 3));
    assert!(!again.remaining().is_zero());
    assert!(lease.remaining().is_zero(), "its worker may have noticed nothing yet, and goes on sending");
}

#[tokio::test]
async fn leases_of_an_instance_without_a_row_are_ended() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let (dying, living) = (open(&store).await, open(&store).await);
    dying.submit(task(1, None)).await.unwrap();
    drop(claimed(&dying).await);
    let owner = dying.owner();
    drop(dying);
    // Another instance has removed it just before its claim was committed.
    let mut connection = store.connect().await;
    while sqlx::query("DELETE FROM instance WHERE id = $1").bind(&*owner).execute(&mut connection).await.unwrap().rows_affected()
        > 0
    {}
    let ended = async {
        while living.expire_leases_of_dead_instances().await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, ended).await.expect("its lease lasts");
}

#[tokio::test]
async fn jobs_of_a_claim_whose_answer_was_lost_are_claimed_again_at_once() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let (queue, breaking) = with_idle_connections(&store).await;
    queue.submit(task(1, None)).await.unwrap();
    breaking.send_replace(Break::AtCommit);
    let lost = queue.claim(&queue.owner(), || 1, LONG_LEASE, MAX_CRASHES).await;
    assert!(lost.is_err(), "{lost:?}");
    let begun = Instant::now();
    assert_eq!(claimed(&queue).await.job.attempt, 2);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_submit_whose_answer_was_lost_is_one_task() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let (queue, breaking) = with_idle_connections(&store).await;
    breaking.send_replace(Break::AtCommit);
    let submitted = queue.submit(task(1, None)).await;
    let tasks: i64 = sqlx::query_scalar("SELECT count(*) FROM task").fetch_one(&mut store.connect().await).await.unwrap();
    assert!(submitted.is_ok() && tasks == 1, "{submitted:?}, {tasks} tasks");
}

#[tokio::test]
async fn a_checkpoint_whose_answer_was_lost_is_logged_once() {
    if !PostgresSchema::is_available() {
        return;
    }
    let store = PostgresSchema::create().await;
    let (queue, breaking) = with_idle_connections(&store).await;
    let Submitted::Created(id) = queue.submit(task(1, None)).await.unwrap() else { panic!("it exists") };
    let lease = claimed(&queue).await;
    breaking.send_replace(Break::AtCommit);
    let counted = DeviceCount { name: None, total: 5 };
    let write = || lease.checkpoint(Checkpoint { counted: Some(counted.clone()), ..progress(3) });
    // As a worker does it.
    while write().await.is_err() {}
    assert_eq!(queue.log_after(id, 0, 10).await.unwrap().len(), 1);
    assert!(*breaking.borrow() == Break::None, "nothing was broken");
}
