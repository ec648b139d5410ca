//! This project's queue: tasks of one device each, finished by a pool that claims as the service
//! does.
//!
//! It writes more than a bare job: the task and its job, and at the end a line of the task's log
//! and the end of the task, in the same transactions.

mod backlog;
#[path = "../../common.rs"]
mod common;
mod growth;
mod snapshot;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Args, Phases};
use data_patch::{
    config::{self, Overrides},
    queue::{Checkpoint, Clock, Queue},
    task::NewTask,
};
use tokio::{sync::mpsc, task::JoinSet};
use uuid::Uuid;

/// The service's defaults.
pub const LEASE: Duration = Duration::from_secs(10);
pub const MAX_CRASHES: u32 = 3;

#[tokio::main]
async fn main() {
    let args = Args::read();
    let queue = open(&args).await;
    if args.has("--backlog-one-task") || args.has("--backlog-many-tasks") {
        backlog::run(&args, queue).await;
        return;
    }
    if args.has("--growth") {
        growth::run(&args, queue, async |args| open(args).await).await;
        return;
    }
    if args.has("--snapshot") {
        snapshot::run(&args, queue).await;
        return;
    }
    let mut phases = Phases::begin();
    let mut submitters = JoinSet::new();
    for share in args.shares() {
        let queue = queue.clone();
        submitters.spawn(async move {
            for _ in 0..share {
                queue.submit(task()).await.expect("submitting");
            }
        });
    }
    submitters.join_all().await;
    phases.enqueued();
    work(&queue, args.jobs, args.workers).await;
    let durability = if postgres().is_some() { "as the server is set" } else { "WAL, synchronous=FULL" };
    phases.finish(&args, "data-patch", env!("CARGO_PKG_VERSION"), &format!("{durability}, answered after the commit"));
    queue.close().await;
}

/// The PostgreSQL that the queue is to be in, if it is not to be in a file.
fn postgres() -> Option<String> {
    std::env::var("BENCH_POSTGRES").ok().filter(|url| !url.is_empty())
}

async fn open(args: &Args) -> Queue {
    let mut overrides = Overrides::default();
    let file = || format!("sqlite://{}", args.dir.join("queue.db").display());
    overrides.set(&["queue", "url"], postgres().unwrap_or_else(file));
    let config = config::load(None, std::iter::empty(), overrides).expect("the defaults are valid");
    Queue::open(&data_patch::app::queue_options(&config.queue), Clock::System).await.expect("opening the queue")
}

fn task() -> NewTask {
    let time = chrono::DateTime::from_timestamp(1_547_164_800, 0).expect("in range");
    NewTask {
        thing: Uuid::new_v4(),
        devices: vec![Uuid::new_v4()],
        topic: "bench".to_owned(),
        from: time,
        to: time,
        request_id: None,
        reason: None,
        rate: None,
    }
}

/// As `worker::Pool::run`: each claim is for all slots that are free, each job ends in a separate
/// task, and its slot is free before its end is stored.
async fn work(queue: &Queue, jobs: usize, slots: usize) {
    let owner: Arc<str> = queue.owner();
    let taken = Arc::new(AtomicUsize::new(0));
    let (leave, mut left) = mpsc::unbounded_channel();
    let (mut working, mut claimed) = (JoinSet::new(), 0);
    while claimed < jobs {
        let free = {
            let taken = Arc::clone(&taken);
            move || slots - taken.load(Ordering::Relaxed)
        };
        for lease in queue.claim(&owner, free, LEASE, MAX_CRASHES).await.expect("claiming").leases {
            claimed += 1;
            taken.fetch_add(1, Ordering::Relaxed);
            let (leave, taken) = (leave.clone(), Arc::clone(&taken));
            working.spawn(async move {
                taken.fetch_sub(1, Ordering::Relaxed);
                leave.send(()).expect("the pool works");
                lease.succeed(Checkpoint::default()).await.expect("finishing");
            });
        }
        if claimed == jobs {
            break;
        }
        left.recv().await.expect("a job was claimed");
        while left.try_recv().is_ok() {}
        while let Some(ended) = working.try_join_next() {
            ended.expect("no worker panics");
        }
    }
    working.join_all().await;
}
