//! The topic's size limit is lowered while a job runs.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use data_patch::{
    replay::{JobContext, LeaseExpired, Outcome, Replay, ReplayRunner, Signals},
    sink::kafka::Kafka,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{
    Reading, TIMEOUT, TestBroker, TestSource, TestTopic, config,
    replay::{self, all_rows, new_ack_tracker},
};

const ROWS: i64 = 16_000;

async fn set_limit(topic: &TestTopic, bytes: usize) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", topic.broker.brokers()).create().unwrap();
    let bytes = bytes.to_string();
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic.name)).set("max.message.bytes", &bytes);
    admin.alter_configs([&change], &AdminOptions::new().operation_timeout(Some(TIMEOUT))).await.unwrap().remove(0).unwrap();
}

/// Lowers the limit before a certain row.
struct Shrinking {
    topic: TestTopic,
    at: usize,
    limit: usize,
    sent: AtomicUsize,
}

impl JobContext for Shrinking {
    fn counted(&self, _name: Option<String>, _total: u64) {}

    fn ensure_lease_valid(&self) -> Result<(), LeaseExpired> {
        if self.sent.fetch_add(1, Relaxed) == self.at {
            let topic = self.topic.clone();
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(set_limit(&topic, self.limit)));
        }
        Ok(())
    }
}

/// Adds a device whose rows fill several batches; one row is larger than the lowered limit.
async fn add_device(source: &TestSource, thing: Uuid, number: i64) -> Uuid {
    let id = 1_000_000 * (number + 1);
    let device = source.add_device_with_rows(thing, id, ROWS).await;
    let large = format!(r#"{{"x": "{}", "deviceId": "{device}", "triggerTime": ""}}"#, "x".repeat(800_000));
    source.add(&[Reading { id, device, time_ms: 1_547_211_780_500 + (ROWS - 100) * 1_000, doc: Some(large) }]).await;
    device
}

/// Whether the service's user may see the topic's settings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    Visible,
    NotTold,
}

/// Works without compression and with full batches, and has the current settings in its cache.
async fn replay_runner(source: &TestSource, topic: &TestTopic, limit: Limit) -> (ReplayRunner, TempDir) {
    let (folder, broker) = (tempfile::tempdir().unwrap(), &topic.broker);
    let config = config(&folder, source, broker, |overrides| {
        let properties = [("compression.type".to_owned(), "none".into()), ("linger.ms".to_owned(), 500.into())];
        overrides.set(&["kafka", "properties"], toml::Table::from_iter(properties));
    });
    let kafka = match limit {
        Limit::Visible => Kafka::new(&config.kafka, broker.brokers()),
        Limit::NotTold => Kafka::without_topic_settings(&config.kafka, broker.brokers()),
    }
    .unwrap();
    // Looked up before the limit is lowered.
    kafka.look_up(&topic.name).await.unwrap();
    (replay::replay_runner(&config, kafka), folder)
}

async fn check_order_when_the_limit_is_lowered_before(at: usize, limit: Limit) {
    let broker = TestBroker::start().await;
    if !broker.is_real() {
        // The embedded broker has no size limit.
        return;
    }
    let (source, topic) = (TestSource::empty().await, broker.topic().await);
    let thing = Uuid::new_v4();
    let mut devices = Vec::new();
    for number in 0..3 {
        devices.push(add_device(&source, thing, number).await);
    }
    let (runner, _folder) = replay_runner(&source, &topic, limit).await;
    let report = Shrinking { topic: topic.clone(), at, limit: 700_000, sent: AtomicUsize::default() };
    let stop = Signals::default();
    let jobs = devices.iter().map(|device| {
        let replay = all_rows(thing, *device, &topic);
        let (runner, report, stop) = (&runner, &report, &stop);
        async move {
            let acks = new_ack_tracker();
            let outcome = runner.run(&replay, &acks, report, stop).await.unwrap();
            assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
            let progress = acks.checkpoint().0;
            assert_eq!((progress.published, progress.quarantined), (ROWS as u64, 1));
        }
    });
    futures_util::future::join_all(jobs).await;
    // Only the rows that are too large; the others are sent in batches again.
    assert_eq!(runner.kafka.rows_sent_alone(), devices.len() as u64);
    for device in devices {
        let mut expected = source.docs(device).await;
        expected.retain(|doc| doc.len() < 700_000);
        let found: Vec<String> = topic.read_device(device).await.into_iter().map(|found| found.value).collect();
        let out_of_order = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert_eq!((found.len(), out_of_order), (expected.len(), None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn order_holds_when_the_limit_is_lowered() {
    check_order_when_the_limit_is_lowered_before(24_000, Limit::Visible).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_holds_when_the_limit_is_lowered_and_its_settings_are_hidden() {
    check_order_when_the_limit_is_lowered_before(24_000, Limit::NotTold).await;
}

// Before the first batch of a producer, the broker knows no sequence numbers, and would accept a
// later batch without the first.
#[tokio::test(flavor = "multi_thread")]
async fn order_holds_when_the_very_first_batch_is_rejected() {
    /// The first batch has four rows and is rejected; the second has only the fifth row, since the
    /// sixth does not fit, and is accepted. Both are in flight at the same time.
    const SIZES: [usize; 6] = [2_150, 2_150, 2_150, 2_150, 4_400, 6_000];
    let broker = TestBroker::start().await;
    if !broker.is_real() {
        return;
    }
    let (source, topic) = (TestSource::empty().await, broker.topic_with(&[("max.message.bytes", "10000")]).await);
    let (thing, device) = (Uuid::new_v4(), Uuid::new_v4());
    source.add_device(thing, device, "应变计").await;
    let rows: Vec<Reading> = (0..)
        .zip(SIZES)
        .map(|(n, size)| {
            let filler = "x".repeat(size);
            let doc = format!(r#"{{"n": {n}, "x": "{filler}", "deviceId": "{device}", "triggerTime": ""}}"#);
            Reading { id: n, device, time_ms: 1_547_211_780_000 + n * 1_000, doc: Some(doc) }
        })
        .collect();
    source.add(&rows).await;
    let (runner, _folder) = replay_runner(&source, &topic, Limit::Visible).await;
    let report = Shrinking { topic: topic.clone(), at: 0, limit: 7_000, sent: AtomicUsize::default() };
    // The number of rows is known, so batches are filled.
    let replay = Replay { total: Some(1_000_000), ..all_rows(thing, device, &topic) };
    let acks = new_ack_tracker();
    let outcome = runner.run(&replay, &acks, &report, &Signals::default()).await.unwrap();
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
    let found: Vec<String> = topic.read_device(device).await.into_iter().map(|found| found.value[..10].to_owned()).collect();
    let expected: Vec<String> = source.docs(device).await.into_iter().map(|doc| doc[..10].to_owned()).collect();
    assert_eq!(found, expected);
}
