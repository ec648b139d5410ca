//! The topic's size limit shrinks while a patch is on its way.

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
    PATIENCE, Reading, TestBroker, TestStore, TestTopic, config,
    patch::{self, all_rows, new_flight},
};

const ROWS: i64 = 16_000;

async fn set_limit(topic: &TestTopic, bytes: usize) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", topic.broker.brokers()).create().unwrap();
    let bytes = bytes.to_string();
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic.name)).set("max.message.bytes", &bytes);
    admin.alter_configs([&change], &AdminOptions::new().operation_timeout(Some(PATIENCE))).await.unwrap().remove(0).unwrap();
}

/// Lets the limit shrink before one row of all that go out.
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

/// A device whose rows fill several batches; one of them is larger than the limit will be.
async fn add_device(store: &TestStore, thing: Uuid, number: i64) -> Uuid {
    let id = 1_000_000 * (number + 1);
    let device = store.add_device_with_rows(thing, id, ROWS).await;
    let large = format!(r#"{{"x": "{}", "deviceId": "{device}", "triggerTime": ""}}"#, "x".repeat(800_000));
    store.add(&[Reading { id, device, time_ms: 1_547_211_780_500 + (ROWS - 100) * 1_000, doc: Some(large) }]).await;
    device
}

/// Whether the service's user may see the topic's settings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    Told,
    NotTold,
}

/// Works without compression, fills its batches, and knows the topic as it is now.
async fn patcher(store: &TestStore, topic: &TestTopic, limit: Limit) -> (ReplayRunner, TempDir) {
    let (folder, broker) = (tempfile::tempdir().unwrap(), &topic.broker);
    let config = config(&folder, store, broker, |overrides| {
        let properties = [("compression.type".to_owned(), "none".into()), ("linger.ms".to_owned(), 500.into())];
        overrides.set(&["kafka", "properties"], toml::Table::from_iter(properties));
    });
    let kafka = match limit {
        Limit::Told => Kafka::new(&config.kafka, broker.brokers()),
        Limit::NotTold => Kafka::without_topic_settings(&config.kafka, broker.brokers()),
    }
    .unwrap();
    // Known as it is before it shrinks.
    kafka.look_up(&topic.name).await.unwrap();
    (patch::patcher(&config, kafka), folder)
}

async fn order_holds_when_the_limit_shrinks_before(at: usize, limit: Limit) {
    let broker = TestBroker::start().await;
    if !broker.is_real() {
        // The embedded broker takes any size.
        return;
    }
    let (store, topic) = (TestStore::empty().await, broker.topic().await);
    let thing = Uuid::new_v4();
    let mut devices = Vec::new();
    for number in 0..3 {
        devices.push(add_device(&store, thing, number).await);
    }
    let (patcher, _folder) = patcher(&store, &topic, limit).await;
    let report = Shrinking { topic: topic.clone(), at, limit: 700_000, sent: AtomicUsize::default() };
    let stop = Signals::default();
    let jobs = devices.iter().map(|device| {
        let patch = all_rows(thing, *device, &topic);
        let (patcher, report, stop) = (&patcher, &report, &stop);
        async move {
            let flight = new_flight();
            let outcome = patcher.run(&patch, &flight, report, stop).await.unwrap();
            assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
            let progress = flight.progress().0;
            assert_eq!((progress.published, progress.quarantined), (ROWS as u64, 1));
        }
    });
    futures_util::future::join_all(jobs).await;
    // Those that are larger than a batch, and no others: the rest goes on at full speed.
    assert_eq!(patcher.kafka.rows_sent_alone(), devices.len() as u64);
    for device in devices {
        let mut expected = store.docs(device).await;
        expected.retain(|doc| doc.len() < 700_000);
        let found: Vec<String> = topic.read_device(device).await.into_iter().map(|found| found.value).collect();
        let out_of_order = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert_eq!((found.len(), out_of_order), (expected.len(), None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn order_holds_when_the_limit_shrinks_on_the_way() {
    order_holds_when_the_limit_shrinks_before(24_000, Limit::Told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_holds_when_the_limit_shrinks_on_the_way_and_is_not_told() {
    order_holds_when_the_limit_shrinks_before(24_000, Limit::NotTold).await;
}

// The broker knows nothing of a producer before its first batch, and would take a later one without the first.
#[tokio::test(flavor = "multi_thread")]
async fn order_holds_when_the_first_batch_of_all_is_refused() {
    /// Four rows are a batch that is refused, the fifth one is a batch that is not: the sixth does not fit with it. librdkafka
    /// has both on the wire together since the first has fewer than five rows.
    const SIZES: [usize; 6] = [2_150, 2_150, 2_150, 2_150, 4_400, 6_000];
    let broker = TestBroker::start().await;
    if !broker.is_real() {
        return;
    }
    let (store, topic) = (TestStore::empty().await, broker.topic_with(&[("max.message.bytes", "10000")]).await);
    let (thing, device) = (Uuid::new_v4(), Uuid::new_v4());
    store.add_device(thing, device, "应变计").await;
    let rows: Vec<Reading> = (0..)
        .zip(SIZES)
        .map(|(n, size)| {
            let filler = "x".repeat(size);
            let doc = format!(r#"{{"n": {n}, "x": "{filler}", "deviceId": "{device}", "triggerTime": ""}}"#);
            Reading { id: n, device, time_ms: 1_547_211_780_000 + n * 1_000, doc: Some(doc) }
        })
        .collect();
    store.add(&rows).await;
    let (patcher, _folder) = patcher(&store, &topic, Limit::Told).await;
    let report = Shrinking { topic: topic.clone(), at: 0, limit: 7_000, sent: AtomicUsize::default() };
    // That there are many is known, so batches wait until they are full.
    let patch = Replay { total: Some(1_000_000), ..all_rows(thing, device, &topic) };
    let flight = new_flight();
    let outcome = patcher.run(&patch, &flight, &report, &Signals::default()).await.unwrap();
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
    let found: Vec<String> = topic.read_device(device).await.into_iter().map(|found| found.value[..10].to_owned()).collect();
    let expected: Vec<String> = store.docs(device).await.into_iter().map(|doc| doc[..10].to_owned()).collect();
    assert_eq!(found, expected);
}
