//! Readings in Elasticsearch (5.6 to 8) or `OpenSearch` (1.3 to 3): one document a reading.
//!
//! A document is published as the store returns it, byte for byte as it was indexed. Rows are in
//! the order of time (to the nanosecond, as the document has it), `_id` and index, which is made
//! here, since no order that all versions offer is total without losing documents
//! (docs/decisions/0025-elasticsearch.md).
//!
//! - `http`: requests, failover, credentials; `error`: what refusals mean
//! - `discover`: version, mappings, settings; `layout`: what was found
//! - `query`, `response`, `lenient`: what is sent, and what comes back
//! - `fetch`: one page; `equal_times`: a millisecond with more documents than a page
//! - `reader`: all pages of some devices; `member`: one of them; `span`: how long windows are
//! - `open`: devices that are opened together; `preview`: counts by time, and samples

mod discover;
mod equal_times;
mod error;
mod fetch;
mod http;
mod layout;
mod lenient;
mod member;
mod open;
mod preview;
mod query;
mod reader;
mod response;
mod span;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU32},
    time::Duration,
};

use bytes::Bytes;
use chrono::Utc;
use tokio::sync::oneshot;
use uuid::Uuid;

pub use layout::IndexLayout;

use super::{
    Mapping, RowSender, Selection, Source, SourceError, StoredRange,
    backend::{ReadingsBackend, RowCount},
    discover::RawLayout,
    pending::{PendingDevice, PendingQueue},
    preview::{CountedGroup, Edges, ProbedGroup, SamplePoint},
    rows::LookUpResult,
};
use crate::config::{Iota, ReadingsUrl};
use http::{Http, Request};
use member::Member;
use query::Window;
use reader::Reader;

/// A cluster and the index in it; clones share the connections.
#[derive(Clone)]
pub(super) struct Cluster {
    http: Http,
    /// Index, alias, data stream or pattern.
    index: String,
    /// Names of the fields.
    device: String,
    time: String,
    settle_seconds: u32,
    pending: PendingQueue,
    /// Shards that the last search asked, if they were not all of the indices; 0: not known.
    shards: Arc<AtomicU32>,
    /// When ranges that end after now were first read, in milliseconds, by their end.
    first_read_ms: Arc<Mutex<BTreeMap<i64, i64>>>,
}

impl Cluster {
    pub fn new(config: &Iota) -> Result<Self, SourceError> {
        let invalid = |problem| SourceError::Rejected(format!("iota.readings.url {} {problem}", config.readings.url));
        let url = ReadingsUrl::parse(&config.readings.url).map_err(invalid)?;
        Ok(Self {
            http: Http::new(config, &url)?,
            index: url.index,
            device: config.readings.device.clone(),
            time: config.readings.time.clone(),
            settle_seconds: config.readings.settle_seconds,
            pending: PendingQueue::default(),
            shards: Arc::default(),
            first_read_ms: Arc::default(),
        })
    }

    /// Reads the version, and how the indices store readings.
    pub async fn describe(&self) -> Result<RawLayout, SourceError> {
        discover::describe(self).await
    }

    /// Checks that a node answers.
    pub async fn ping(&self) -> Result<(), SourceError> {
        Ok(self.http.send(&Request::get("/")).await.map(|_| ())?)
    }

    fn settle_ms(&self) -> i64 {
        i64::from(self.settle_seconds) * 1_000
    }

    /// Whether documents before this millisecond can be found, if they were indexed in time.
    fn is_settled(&self, end_ms: i64) -> bool {
        end_ms.saturating_add(self.settle_ms()) <= Utc::now().timestamp_millis()
    }

    /// Waits until what was indexed before now can be found, if the window is that late.
    async fn settle(&self, window_end_ms: i64, range_end_ms: i64) {
        let now = Utc::now().timestamp_millis();
        if window_end_ms.saturating_add(self.settle_ms()) <= now {
            return;
        }
        let first_read = {
            let mut first_read = self.first_read_ms.lock().unwrap_or_else(PoisonError::into_inner);
            first_read.retain(|_, read| read.saturating_add(self.settle_ms()).saturating_add(60_000) > now);
            *first_read.entry(range_end_ms).or_insert(now)
        };
        let wait = window_end_ms.min(first_read).saturating_add(self.settle_ms()).saturating_sub(now).min(self.settle_ms());
        if let Ok(wait) = u64::try_from(wait) {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }
}

/// The layout of the index. A mapping without one was read for another store.
fn index(mapping: &Mapping) -> Result<&Arc<IndexLayout>, SourceError> {
    mapping.index.as_ref().ok_or_else(|| SourceError::Mapping("the readings are not in an index".to_owned()))
}

/// The milliseconds of a range of microseconds, both ends inclusive.
fn window(range: &StoredRange) -> Window {
    Window { start_ms: range.from.unwrap_or_default().div_euclid(1_000), end_ms: range.to.div_euclid(1_000).saturating_add(1) }
}

impl ReadingsBackend for Cluster {
    fn caps_counts(&self) -> bool {
        false
    }

    async fn bucket_counts(
        &self,
        mapping: &Mapping,
        devices: &[Uuid],
        edges: &Edges,
        _: Option<u32>,
        limit: Duration,
    ) -> Result<Option<Vec<CountedGroup>>, SourceError> {
        within(limit, preview::bucket_counts(self, index(mapping)?, devices, edges)).await
    }

    async fn probe(
        &self,
        mapping: &Mapping,
        device: Uuid,
        ranges: &[StoredRange],
        _: u32,
        limit: Duration,
    ) -> Result<Option<Vec<(usize, ProbedGroup)>>, SourceError> {
        within(limit, preview::probe(self, index(mapping)?, device, ranges)).await
    }

    async fn sample(
        &self,
        mapping: &Mapping,
        points: &[SamplePoint],
        rows: u32,
        limit: Duration,
        on_row: &mut (dyn FnMut(usize, Option<Bytes>) + Send),
    ) -> Result<bool, SourceError> {
        Ok(within(limit, preview::sample(self, index(mapping)?, points, rows, on_row)).await?.is_some())
    }

    async fn count(&self, mapping: &Mapping, device: Uuid, range: &StoredRange) -> Result<RowCount, SourceError> {
        let layout = index(mapping)?;
        // Most documents have no time below a millisecond: of one that the range begins within, they
        // are before the range.
        let start_ms = range.from.unwrap_or_default().saturating_add(999).div_euclid(1_000);
        let window = Window { start_ms, ..window(range) };
        let body = self.http.send(&query::count(layout, &[device], window, device)).await?;
        let rows = response::read_count(&body)?;
        Ok(RowCount { rows, keys: rows })
    }

    async fn read(&self, source: &Source, selection: Selection, sender: RowSender, first_rows: Option<u32>, is_finished: bool) {
        Reader::new(source, self, vec![Member::new(selection, sender)]).with_first_rows(first_rows).run(is_finished).await;
    }

    /// Opens it together with the other devices that wait.
    fn open(
        &self,
        source: &Source,
        thing: Uuid,
        selection: Selection,
        reply_to: oneshot::Sender<LookUpResult>,
        sender: RowSender,
    ) {
        self.pending.push(PendingDevice { thing, selection, reply_to: Some(reply_to), sender: Some(sender) });
        tokio::spawn(open::next_group(source.clone(), self.clone()));
    }

    async fn any_reading(&self, mapping: &Mapping) -> Result<Option<String>, SourceError> {
        let layout = index(mapping)?;
        let body = self.http.send(&query::any(layout)).await?;
        let found = response::any_document(&body)?;
        let device = found.map(|document| response::fields(&document, &layout.device, &layout.time).device.map(Into::into));
        Ok(device.flatten())
    }

    async fn explain_count(&self, _: &Mapping, _: Uuid, _: &StoredRange) -> Result<Option<String>, SourceError> {
        Ok(None)
    }
}

/// The result of short requests; `None` if they take longer than `limit`. A request that is given up
/// ends in the store too, with its connection.
async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, SourceError>>) -> Result<Option<T>, SourceError> {
    tokio::time::timeout(limit, work).await.ok().transpose()
}
