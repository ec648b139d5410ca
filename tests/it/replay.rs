//! One job, without a queue.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use data_patch::{
    replay::{JobContext, LeaseExpired, Outcome, Signals},
    sink::kafka::Kafka,
};

use crate::support::{
    TestBroker, TestSource, config,
    replay::{all_rows, new_ack_tracker, replay_runner},
};

/// Counts the rows that are sent without yielding to other tasks.
#[derive(Default)]
struct Turns {
    rows: AtomicUsize,
    most: AtomicUsize,
}

impl JobContext for Turns {
    fn counted(&self, _name: Option<String>, _total: u64) {}

    fn ensure_lease_valid(&self) -> Result<(), LeaseExpired> {
        self.most.fetch_max(self.rows.fetch_add(1, Relaxed) + 1, Relaxed);
        Ok(())
    }
}

// The heartbeat runs in the same task of the runtime as the job: rows that are sent while it waits
// are sent again after a crash.
#[tokio::test]
async fn no_more_than_a_batch_is_sent_without_yielding() {
    let folder = tempfile::tempdir().unwrap();
    let (source, broker) = (TestSource::empty().await, TestBroker::start().await);
    let topic = broker.topic().await;
    let (thing, device) = source.add_rows(5_000).await;
    let config = config(&folder, &source, &broker, |_| {});
    let runner = replay_runner(&config, Kafka::new(&config.kafka, broker.brokers()).unwrap());
    let (replay, acks) = (all_rows(thing, device, &topic), new_ack_tracker());
    let (turns, stop) = (Turns::default(), Signals::default());
    let others = async {
        loop {
            turns.rows.store(0, Relaxed);
            tokio::task::yield_now().await;
        }
    };
    let outcome = tokio::select! {
        biased;
        () = others => unreachable!(),
        outcome = runner.run(&replay, &acks, &turns, &stop) => outcome.unwrap(),
    };
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
    assert_eq!(acks.checkpoint().0.published, 5_000);
    let most = turns.most.load(Relaxed);
    assert!(most <= 512, "{most} rows without yielding");
}
