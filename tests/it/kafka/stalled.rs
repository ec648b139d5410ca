//! One partition has no leader: other partitions are not affected, and its jobs can be abandoned.

use std::{sync::Arc, time::Duration};

use data_patch::{
    replay::{Dependency, JobContext, LeaseExpired, Outcome, Replay, ReplayRunner, Signals},
    sink::kafka::{AckTracker, EmbeddedBroker, Kafka},
};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use uuid::Uuid;

use crate::support::{
    TIMEOUT, TestBroker, TestSource, TestTopic, config, eventually, partition,
    replay::{all_rows, new_ack_tracker, replay_runner},
};

/// The partition without a leader.
const DEAD: i32 = 0;

struct NoContext;

impl JobContext for NoContext {
    fn counted(&self, _name: Option<String>, _total: u64) {}

    fn ensure_lease_valid(&self) -> Result<(), LeaseExpired> {
        Ok(())
    }
}

/// A source and an embedded broker, whose partitions can lose their leaders.
struct Site {
    _folder: TempDir,
    source: TestSource,
    broker: Arc<EmbeddedBroker>,
    topic: TestTopic,
    runner: ReplayRunner,
    thing: Uuid,
}

impl Site {
    async fn new(in_flight_bytes: i64) -> Self {
        let (folder, source) = (tempfile::tempdir().unwrap(), TestSource::empty().await);
        let broker = Arc::new(EmbeddedBroker::start_beside_a_dead_one().await.unwrap());
        let topic = TestBroker::Embedded(Arc::clone(&broker)).topic().await;
        let config = config(&folder, &source, &topic.broker, |overrides| {
            overrides.set(&["kafka", "in_flight_bytes"], in_flight_bytes);
        });
        let runner = replay_runner(&config, Kafka::without_topic_settings(&config.kafka, broker.brokers()).unwrap());
        Self { _folder: folder, source, broker, topic, runner, thing: Uuid::new_v4() }
    }

    /// Adds a device with this many rows, whose key belongs to the dead partition or to another.
    async fn device(&self, is_dead: bool, last_id: i64, rows: i64) -> Uuid {
        let is_there = |device: &Uuid| (partition(&device.to_string()) == DEAD) == is_dead;
        let device = std::iter::repeat_with(Uuid::new_v4).find(is_there).unwrap();
        self.source.add_this_device_with_rows(self.thing, device, last_id, rows).await;
        device
    }

    async fn has_leader(&self, has_leader: bool) {
        self.broker.set_leader(&self.topic.name, DEAD, has_leader).await.unwrap();
    }

    fn job(&self, device: Uuid) -> Job {
        let (acks, signals) = (new_ack_tracker(), Signals::default());
        // The number of rows is known, so all jobs use the same producer.
        let replay = Replay { total: Some(1_000_000), ..all_rows(self.thing, device, &self.topic) };
        let (runner, run_acks, run_signals) = (self.runner.clone(), Arc::clone(&acks), signals.clone());
        let running = tokio::spawn(async move { runner.run(&replay, &run_acks, &NoContext, &run_signals).await.unwrap() });
        Job { acks, signals, running }
    }

    /// Asserts that all rows of a device are in the topic, in order and once.
    async fn assert_complete(&self, device: Uuid) {
        let found: Vec<String> = self.topic.read_device(device).await.into_iter().map(|found| found.value).collect();
        assert!(found == self.source.docs(device).await, "{} rows found", found.len());
    }
}

struct Job {
    acks: Arc<AckTracker>,
    signals: Signals,
    running: JoinHandle<Outcome>,
}

impl Job {
    async fn outcome(self) -> Outcome {
        timeout(TIMEOUT, self.running).await.expect("the job does not end").unwrap()
    }

    async fn assert_succeeds(self) {
        let outcome = self.outcome().await;
        assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
    }

    async fn wait_until_in_flight(&self) {
        eventually("rows are in flight", async || self.acks.has_in_flight()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_delays_no_other() {
    // One batch of rows uses all bytes in flight.
    let site = Site::new(65_536).await;
    let mut dead = Vec::new();
    for n in 0..2 {
        dead.push(site.device(true, n * 10_000 + 1, 3_000).await);
    }
    let healthy = site.device(false, 50_001, 3_000).await;
    site.has_leader(false).await;
    let dead_job = site.job(dead[0]);
    dead_job.wait_until_in_flight().await;

    site.job(healthy).assert_succeeds().await;
    assert!(dead_job.acks.has_in_flight());

    // A job without rows in flight fails with the partition's outage.
    let Outcome::Outage { dependency: part, reason } = site.job(dead[1]).outcome().await else { panic!("no outage") };
    assert_eq!(part, Dependency::Topic);
    assert!(reason.contains(&format!("partition {DEAD} of topic {} has acknowledged nothing for", site.topic.name)), "{reason}");

    eventually("silence", async || dead_job.acks.ack_silence() > Some(Duration::from_secs(2))).await;
    site.has_leader(true).await;
    dead_job.assert_succeeds().await;
    for device in [healthy, dead[0]] {
        site.assert_complete(device).await;
    }
    assert_eq!(site.runner.kafka.in_flight_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_wait_for_a_leader_are_dropped_when_their_job_is_abandoned() {
    const ROWS: i64 = 10_000;
    let site = Site::new(16 << 20).await;
    let opener = site.device(true, 1, 5).await;
    site.job(opener).assert_succeeds().await;
    let (dead, healthy) = (site.device(true, 10_001, ROWS).await, site.device(false, 50_001, 100_000).await);
    site.has_leader(false).await;
    let job = site.job(dead);
    job.wait_until_in_flight().await;
    let other = site.job(healthy);
    other.wait_until_in_flight().await;

    job.signals.abort.cancel();
    let acks = Arc::clone(&job.acks);
    let Outcome::Abandoned { unanswered } = job.outcome().await else { panic!("not abandoned") };
    assert!(unanswered <= ROWS as u64, "{unanswered}");
    assert_eq!(acks.checkpoint().0.published, 0);

    // The other job on the same producer continues, without an outage.
    other.assert_succeeds().await;
    site.has_leader(true).await;
    site.assert_complete(healthy).await;
    // Later rows in their partition arrive, the dropped rows do not.
    let last = site.device(true, 200_001, 5).await;
    site.job(last).assert_succeeds().await;
    let arrived = site.topic.read_device(dead).await.len() as u64;
    assert!(arrived <= unanswered, "{arrived} rows arrived, {unanswered} were reported");
    assert_eq!(arrived, 0, "none was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_abandoned_with_nothing_in_flight_is_stopped() {
    let site = Site::new(65_536).await;
    let (first, second) = (site.device(true, 1, 3_000).await, site.device(true, 10_001, 3_000).await);
    site.has_leader(false).await;
    let holder = site.job(first);
    holder.wait_until_in_flight().await;
    let job = site.job(second);
    job.signals.abort.cancel();
    let outcome = job.outcome().await;
    assert!(matches!(outcome, Outcome::Stopped), "{outcome:?}");
    holder.signals.abort.cancel();
    let outcome = holder.outcome().await;
    assert!(matches!(outcome, Outcome::Abandoned { unanswered: 0..=3_000 }), "{outcome:?}");
}
