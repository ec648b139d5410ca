//! The source and the topics of the walk: things with devices of all sizes, made from the seed.

use std::{collections::BTreeMap, sync::Arc};

use fastrand::Rng;
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{Process, Reading, TestBroker, TestSource, TestTopic, doc};

/// Rows of the devices: none, one, the contract's example, and enough to be interrupted.
const ROWS: [i64; 8] = [0, 1, 178, 500, 1_000, 1_500, 2_000, 4_000];
const THINGS: usize = 4;
/// In some devices, one of this many rows has no document and is quarantined.
const QUARANTINED_EVERY: i64 = 250;
/// Several, since the rows of a task are read from its whole topic.
const TOPICS: usize = 12;

#[derive(Debug, Clone, Copy)]
pub struct Device {
    pub id: Uuid,
    /// Rows to be published, and rows to be quarantined.
    pub rows: i64,
    pub quarantined: i64,
}

pub struct Fixture {
    pub folder: Arc<TempDir>,
    pub source: TestSource,
    pub topics: Vec<TestTopic>,
    pub things: Vec<(Uuid, Vec<Device>)>,
}

impl Fixture {
    pub async fn new(rng: &mut Rng, folder: Arc<TempDir>) -> Self {
        let broker = TestBroker::start().await;
        let mut topics = Vec::new();
        for _ in 0..TOPICS {
            topics.push(broker.topic().await);
        }
        let source = TestSource::empty().await;
        let mut things = Vec::new();
        let mut key = 0;
        for _ in 0..THINGS {
            let thing = Uuid::from_u128(rng.u128(..));
            let mut devices = Vec::new();
            for (number, rows) in ROWS.into_iter().enumerate() {
                let id = Uuid::from_u128(rng.u128(..));
                source.add_device(thing, id, "测斜仪").await;
                let has_invalid = number % 2 == 0;
                let readings: Vec<_> = (1..=rows)
                    .map(|n| Reading {
                        id: key + n,
                        device: id,
                        time_ms: 1_547_211_780_000 + n * 1_000,
                        doc: (!has_invalid || n % QUARANTINED_EVERY != 0).then(|| doc(id, n)),
                    })
                    .collect();
                source.add(&readings).await;
                key += rows;
                let quarantined = if has_invalid { rows / QUARANTINED_EVERY } else { 0 };
                devices.push(Device { id, rows: rows - quarantined, quarantined });
            }
            things.push((thing, devices));
        }
        Self { folder, source, topics, things }
    }

    /// Starts a service on the shared queue, slow enough to be interrupted, with short leases.
    pub async fn serve(&self) -> Process {
        self.serve_with(&[]).await
    }

    /// As [`serve`](Self::serve), with further settings, which have precedence.
    pub async fn serve_with(&self, more: &[(&str, &str)]) -> Process {
        let mut settings = BTreeMap::from([
            ("DATA_PATCH_IOTA_PAGE_ROWS", "20"),
            ("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "65536"),
            ("DATA_PATCH_WORKER_CONCURRENCY", "3"),
            ("DATA_PATCH_WORKER_LEASE_SECONDS", "2"),
            ("DATA_PATCH_WORKER_PREEMPT_AFTER_SECONDS", "1"),
            ("DATA_PATCH_WORKER_RETRY_MAX_MS", "1000"),
            // The limit of crashes has a test of its own.
            ("DATA_PATCH_WORKER_MAX_CRASHES", "1000"),
        ]);
        settings.extend(more.iter().copied());
        Process::serve(&self.folder, &self.source, &self.topics[0], &settings.into_iter().collect::<Vec<_>>()).await
    }
}
