//! One partition whose leader is down: it keeps nobody else waiting, and what waits for it can be given up.

use std::{sync::Arc, time::Duration};

use data_patch::{
    replay::{Dependency, JobContext, LeaseExpired, Outcome, Replay, ReplayRunner, Signals},
    sink::kafka::{AckTracker, EmbeddedBroker, Kafka},
};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use uuid::Uuid;

use crate::support::{
    PATIENCE, TestBroker, TestStore, TestTopic, config, eventually, partition,
    patch::{all_rows, new_flight, patcher},
};

/// The partition whose leader is taken away.
const DEAD: i32 = 0;

struct Silent;

impl JobContext for Silent {
    fn counted(&self, _name: Option<String>, _total: u64) {}

    fn ensure_lease_valid(&self) -> Result<(), LeaseExpired> {
        Ok(())
    }
}

/// A store and a broker in the process, whose partitions can lose their leaders.
struct Site {
    _folder: TempDir,
    store: TestStore,
    broker: Arc<EmbeddedBroker>,
    topic: TestTopic,
    patcher: ReplayRunner,
    thing: Uuid,
}

impl Site {
    async fn new(in_flight_bytes: i64) -> Self {
        let (folder, store) = (tempfile::tempdir().unwrap(), TestStore::empty().await);
        let broker = Arc::new(EmbeddedBroker::start_beside_a_dead_one().await.unwrap());
        let topic = TestBroker::Embedded(Arc::clone(&broker)).topic().await;
        let config = config(&folder, &store, &topic.broker, |overrides| {
            overrides.set(&["kafka", "in_flight_bytes"], in_flight_bytes);
        });
        let patcher = patcher(&config, Kafka::without_topic_settings(&config.kafka, broker.brokers()).unwrap());
        Self { _folder: folder, store, broker, topic, patcher, thing: Uuid::new_v4() }
    }

    /// Adds a device with so many rows whose key belongs to the dead partition, or to another.
    async fn device(&self, is_dead: bool, last_id: i64, rows: i64) -> Uuid {
        let is_there = |device: &Uuid| (partition(&device.to_string()) == DEAD) == is_dead;
        let device = std::iter::repeat_with(Uuid::new_v4).find(is_there).unwrap();
        self.store.add_this_device_with_rows(self.thing, device, last_id, rows).await;
        device
    }

    async fn has_leader(&self, has_leader: bool) {
        self.broker.set_leader(&self.topic.name, DEAD, has_leader).await.unwrap();
    }

    fn job(&self, device: Uuid) -> Job {
        let (flight, signals) = (new_flight(), Signals::default());
        // That there are many is known: all use one producer.
        let patch = Replay { total: Some(1_000_000), ..all_rows(self.thing, device, &self.topic) };
        let (patcher, run_flight, run_signals) = (self.patcher.clone(), Arc::clone(&flight), signals.clone());
        let running = tokio::spawn(async move { patcher.run(&patch, &run_flight, &Silent, &run_signals).await.unwrap() });
        Job { flight, signals, running }
    }

    /// All rows of a device are in the topic, in order and once.
    async fn holds(&self, device: Uuid) {
        let found: Vec<String> = self.topic.read_device(device).await.into_iter().map(|found| found.value).collect();
        assert!(found == self.store.docs(device).await, "{} rows found", found.len());
    }
}

struct Job {
    flight: Arc<AckTracker>,
    signals: Signals,
    running: JoinHandle<Outcome>,
}

impl Job {
    async fn ends(self) -> Outcome {
        timeout(PATIENCE, self.running).await.expect("the job does not end").unwrap()
    }

    async fn succeeds(self) {
        let outcome = self.ends().await;
        assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
    }

    async fn has_rows_on_their_way(&self) {
        eventually("rows on their way", async || self.flight.has_in_flight()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_keeps_nobody_else_waiting() {
    // One batch of rows takes all of it.
    let site = Site::new(65_536).await;
    let mut dead = Vec::new();
    for n in 0..2 {
        dead.push(site.device(true, n * 10_000 + 1, 3_000).await);
    }
    let healthy = site.device(false, 50_001, 3_000).await;
    site.has_leader(false).await;
    let dead_job = site.job(dead[0]);
    dead_job.has_rows_on_their_way().await;

    site.job(healthy).succeeds().await;
    assert!(dead_job.flight.has_in_flight());

    // One that has nothing on its way does not wait with it.
    let Outcome::Outage { dependency: part, reason } = site.job(dead[1]).ends().await else { panic!("no outage") };
    assert_eq!(part, Dependency::Topic);
    assert!(reason.contains(&format!("partition {DEAD} of topic {} has acknowledged nothing for", site.topic.name)), "{reason}");

    eventually("silence", async || dead_job.flight.ack_silence() > Some(Duration::from_secs(2))).await;
    site.has_leader(true).await;
    dead_job.succeeds().await;
    for device in [healthy, dead[0]] {
        site.holds(device).await;
    }
    assert_eq!(site.patcher.kafka.in_flight_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_wait_for_a_leader_are_dropped_when_their_job_is_abandoned() {
    const ROWS: i64 = 10_000;
    let site = Site::new(16 << 20).await;
    let opener = site.device(true, 1, 5).await;
    site.job(opener).succeeds().await;
    let (dead, healthy) = (site.device(true, 10_001, ROWS).await, site.device(false, 50_001, 100_000).await);
    site.has_leader(false).await;
    let job = site.job(dead);
    job.has_rows_on_their_way().await;
    let other = site.job(healthy);
    other.has_rows_on_their_way().await;

    job.signals.abort.cancel();
    let flight = Arc::clone(&job.flight);
    let Outcome::Abandoned { unanswered } = job.ends().await else { panic!("not abandoned") };
    assert!(unanswered <= ROWS as u64, "{unanswered}");
    assert_eq!(flight.progress().0.published, 0);

    // The other job on the same producer goes on, with no outage.
    other.succeeds().await;
    site.has_leader(true).await;
    site.holds(healthy).await;
    // One that comes after them in their partition arrives, and they do not.
    let last = site.device(true, 200_001, 5).await;
    site.job(last).succeeds().await;
    let arrived = site.topic.read_device(dead).await.len() as u64;
    assert!(arrived <= unanswered, "{arrived} arrived, {unanswered} were told");
    assert_eq!(arrived, 0, "none was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_abandoned_with_nothing_on_its_way_has_stopped() {
    let site = Site::new(65_536).await;
    let (first, second) = (site.device(true, 1, 3_000).await, site.device(true, 10_001, 3_000).await);
    site.has_leader(false).await;
    let holder = site.job(first);
    holder.has_rows_on_their_way().await;
    let job = site.job(second);
    job.signals.abort.cancel();
    let outcome = job.ends().await;
    assert!(matches!(outcome, Outcome::Stopped), "{outcome:?}");
    holder.signals.abort.cancel();
    let outcome = holder.ends().await;
    assert!(matches!(outcome, Outcome::Abandoned { unanswered: 0..=3_000 }), "{outcome:?}");
}
