//! The work on one job, by itself.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use data_patch::{
    replay::{JobContext, LeaseExpired, Outcome, Signals},
    sink::kafka::Kafka,
};

use crate::support::{
    TestBroker, TestStore, config,
    patch::{all_rows, new_flight, patcher},
};

/// Counts the rows that go out while nobody else gets a turn.
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

// The heartbeat stores the checkpoint beside the work, in the same task of the runtime: rows that go out while it waits go out again
// after a crash.
#[tokio::test]
async fn no_more_than_a_batch_goes_out_while_others_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (store, broker) = (TestStore::empty().await, TestBroker::start().await);
    let topic = broker.topic().await;
    let (thing, device) = store.add_rows(5_000).await;
    let config = config(&folder, &store, &broker, |_| {});
    let patcher = patcher(&config, Kafka::new(&config.kafka, broker.brokers()).unwrap());
    let (patch, flight) = (all_rows(thing, device, &topic), new_flight());
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
        outcome = patcher.run(&patch, &flight, &turns, &stop) => outcome.unwrap(),
    };
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
    assert_eq!(flight.progress().0.published, 5_000);
    let most = turns.most.load(Relaxed);
    assert!(most <= 512, "{most} rows without a turn of the others");
}
