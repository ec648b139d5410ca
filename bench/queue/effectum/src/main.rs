//! effectum: `add_to` puts a job in, one worker with a limit of jobs at a time; its one writer commits in groups of 50.
//!
//! It sets `synchronous = NORMAL` itself, and means to set WAL but names the pragma `journal`, which SQLite does not know:
//! as shipped it runs with a rollback journal. Neither can be configured, so `durable.rs` overrules both from outside,
//! before each connection is handed out. Adds and ends are answered after the commit.

#[path = "../../common.rs"]
mod common;
mod durable;

use std::sync::Arc;

use common::{Args, Phases};
use effectum::{Error, Job, JobRunner, Queue, RunningJob, Worker};
use tokio::task::JoinSet;

#[derive(Debug)]
struct Ran;

#[tokio::main]
async fn main() {
    let args = Args::read();
    let shipped = args.has("--as-shipped");
    if !shipped {
        durable::overrule();
    }
    let file = args.dir.join("effectum.db");
    let queue = Arc::new(Queue::new(&file).await.expect("opening"));

    let mut phases = Phases::begin();
    let mut submitters = JoinSet::new();
    for share in args.shares() {
        let queue = Arc::clone(&queue);
        submitters.spawn(async move {
            for _ in 0..share {
                Job::builder("bench").add_to(&queue).await.expect("adding");
            }
        });
    }
    submitters.join_all().await;
    phases.enqueued();
    work(&queue, &args).await;
    let durability = if shipped {
        "as shipped: rollback journal (its WAL pragma is misspelt), synchronous=NORMAL"
    } else {
        "WAL, synchronous=FULL, forced from outside; answered after the commit"
    };
    phases.finish(&args, if shipped { "effectum (as shipped)" } else { "effectum" }, "0.7.0", durability);
    // The writer's thread drops what needs the runtime, so it must not outlive it; nothing is left to be written.
    std::process::exit(0);
}

/// Runs one worker until it has finished as many as there are.
async fn work(queue: &Queue, args: &Args) {
    let job = JobRunner::builder("bench", |_job: RunningJob, _ran: Arc<Ran>| async { Ok::<(), Error>(()) }).build();
    let places = u16::try_from(args.workers).expect("few workers");
    let worker = Worker::builder(queue, Arc::new(Ran))
        .jobs([job])
        .max_concurrency(places)
        .min_concurrency(places)
        .build()
        .await
        .expect("starting the worker");
    // A job is counted as finished after its end is committed.
    while (worker.counts().finished as usize) < args.jobs {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
