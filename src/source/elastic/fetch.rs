//! Reads the earliest documents of a window, all of each millisecond or none.
//!
//! A page of a search ends anywhere among equal times, and no order that every version offers tells
//! equal times apart without losing some. So the documents of a page's last millisecond are left
//! to the next page, and the order within a millisecond is made here. Only a millisecond with more
//! documents than a page is read by a scroll (`equal_times`).

use std::{cmp::Ordering, sync::Arc, time::Duration};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Cluster, equal_times,
    error::HttpError,
    layout::IndexLayout,
    query::{self, Window},
    response::{Hit, Page, fields},
};
use crate::{
    source::{SourceError, pages::PAGE_BYTES},
    task::{Position, RowKey},
};

/// An answer of more bytes is given up, and a smaller page is asked for.
pub const MAX_PAGE_BYTES: usize = PAGE_BYTES * 2;
/// As much as a store accepts in one request by default, and what is around the document.
const MAX_DOCUMENT_BYTES: usize = 101 * 1_024 * 1_024;
/// Attempts of a page while the store is overloaded, with growing delays.
const MAX_OVERLOADS: u32 = 5;
const OVERLOAD_DELAY: Duration = Duration::from_millis(200);
/// Attempts of a page while shards do not answer, with growing delays.
const MAX_SHARD_WAITS: u32 = 5;
const SHARD_DELAY: Duration = Duration::from_millis(50);

/// Where a document stands in the order of rows: the same in every run, on every version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub ms: i64,
    /// Below the millisecond.
    pub nanos: u32,
    pub id: Box<str>,
    pub index: Arc<str>,
}

/// A document in its place.
#[derive(Debug, Clone)]
pub struct Item {
    pub place: Place,
    /// `None` if one device is read, or if the document does not say.
    pub device: Option<Uuid>,
    pub doc: Option<Bytes>,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub devices: Arc<[Uuid]>,
    pub window: Window,
    /// Documents in a page.
    pub rows: u32,
    /// Within the window's first millisecond, only what comes after this.
    pub after: Option<Place>,
    /// Each document must tell its device.
    pub is_group: bool,
}

/// What was read.
#[derive(Debug)]
pub struct Fetched {
    /// In order.
    pub items: Vec<Item>,
    /// All before this millisecond is read.
    pub until_ms: i64,
    /// This millisecond is read up to here: it has more than fits in memory.
    pub within: Option<Place>,
    /// Documents in a page that the store could deliver.
    pub rows: u32,
    /// Bytes of the answer, and its documents.
    pub bytes: usize,
    pub documents: usize,
    pub shards: u32,
}

impl Place {
    pub fn position(&self) -> Position {
        Position { time_us: self.time_us(), key: RowKey::from(&*self.id) }
    }

    pub fn time_us(&self) -> i64 {
        self.ms.saturating_mul(1_000).saturating_add(i64::from(self.nanos / 1_000))
    }
}

impl Item {
    /// Places a document. Its fields are read only from itself, so that its place does not depend
    /// on the page that it came in.
    pub fn new(hit: &Hit, doc: Option<Bytes>, layout: &IndexLayout, is_group: bool) -> Self {
        let fields = doc.as_deref().map(|doc| fields(doc, &layout.device, &layout.time)).unwrap_or_default();
        let device = fields.device.as_deref().filter(|_| is_group).and_then(|device| Uuid::try_parse(device).ok());
        let place = Place { ms: hit.ms, nanos: fields.nanos, id: hit.id.clone(), index: Arc::clone(&hit.index) };
        Self { place, device, doc }
    }
}

/// Reads the beginning of a window.
///
/// # Errors
/// The store is unavailable, or has not returned all that it found.
pub async fn fetch(cluster: &Cluster, layout: &IndexLayout, mut wanted: Wanted) -> Result<Fetched, SourceError> {
    let copy = wanted.devices.first().copied().unwrap_or_default();
    if let Some(after) = wanted.after.take() {
        return equal_times::read(cluster, layout, &wanted, after.ms, Some(after)).await;
    }
    let mut page_rows = PageRows::new(wanted.rows);
    let page = loop {
        let mut request = query::search(layout, &wanted.devices, wanted.window, page_rows.rows, copy);
        request.max_bytes = max_bytes(page_rows.rows);
        match cluster.http.send(&request).await {
            Ok(body) => match Page::read(&body) {
                Ok(page) => break page,
                Err(error) => page_rows.wait_after(error).await?,
            },
            Err(error) => page_rows.shrink(error).await?,
        }
    };
    wanted.rows = page_rows.rows;
    let expected = page.total.min(u64::from(wanted.rows));
    if (page.hits.len() as u64) < expected {
        return Err(incomplete(page.hits.len() as u64, expected));
    }
    let is_complete = page.total <= page.hits.len() as u64;
    let last_ms = page.hits.last().map_or(wanted.window.end_ms, |hit| hit.ms);
    let until_ms = if is_complete { wanted.window.end_ms } else { last_ms };
    if until_ms <= wanted.window.start_ms && !is_complete {
        if last_ms < wanted.window.start_ms {
            return Err(several_times(&wanted, page.hits.last()));
        }
        return equal_times::read(cluster, layout, &wanted, last_ms, None).await;
    }
    // A document with several times is sorted by its earliest, which decides.
    let is_wanted = |hit: &&Hit| (wanted.window.start_ms..until_ms).contains(&hit.ms);
    let mut items: Vec<_> =
        page.hits.iter().filter(is_wanted).map(|hit| Item::new(hit, page.document(hit), layout, wanted.is_group)).collect();
    items.sort_by(by_place);
    Ok(Fetched {
        items,
        until_ms,
        within: None,
        rows: wanted.rows,
        bytes: page.bytes,
        documents: page.hits.len(),
        shards: page.shards,
    })
}

pub fn by_place(one: &Item, other: &Item) -> Ordering {
    one.place.cmp(&other.place)
}

/// The largest answer for a page of so many documents.
pub fn max_bytes(rows: u32) -> usize {
    if rows > 1 { MAX_PAGE_BYTES } else { MAX_DOCUMENT_BYTES }
}

/// How many documents to ask for: fewer after a page that the store or we could not take.
#[derive(Debug)]
pub struct PageRows {
    pub rows: u32,
    overloads: u32,
    shard_waits: u32,
}

impl PageRows {
    pub fn new(rows: u32) -> Self {
        Self { rows, overloads: 0, shard_waits: 0 }
    }

    /// Decides how to go on after a page failed; waits if the store is overloaded.
    ///
    /// # Errors
    /// A smaller page would not help.
    pub async fn shrink(&mut self, error: HttpError) -> Result<(), SourceError> {
        match error {
            HttpError::TooLarge if self.rows > 1 => self.rows = (self.rows / 4).max(1),
            HttpError::Refused(refusal) if refusal.is_window_too_large() && self.rows > 1 => self.rows /= 2,
            HttpError::Refused(refusal) if refusal.is_overload() && self.overloads < MAX_OVERLOADS => {
                tracing::info!(%refusal, "the store of readings is overloaded; a smaller page is read after a pause");
                tokio::time::sleep((OVERLOAD_DELAY * 2_u32.pow(self.overloads)).mul_f64(0.5 + fastrand::f64())).await;
                self.rows = (self.rows / 2).max(1);
                self.overloads += 1;
            }
            HttpError::Refused(refusal) if refusal.is_shard_missing() && self.shard_waits < MAX_SHARD_WAITS => {
                self.wait_for_shards().await;
            }
            error => return Err(error.into()),
        }
        Ok(())
    }

    /// Waits if shards have not answered. Those of a new index are not available at once, and a
    /// pattern or alias gets new indices at any time.
    ///
    /// # Errors
    /// They have not answered for a while, or it is another error.
    pub async fn wait_after(&mut self, error: SourceError) -> Result<(), SourceError> {
        if !matches!(error, SourceError::Unavailable(_)) || self.shard_waits >= MAX_SHARD_WAITS {
            return Err(error);
        }
        self.wait_for_shards().await;
        Ok(())
    }

    async fn wait_for_shards(&mut self) {
        tokio::time::sleep(SHARD_DELAY * 2_u32.pow(self.shard_waits)).await;
        self.shard_waits += 1;
    }
}

pub fn incomplete(returned: u64, found: u64) -> SourceError {
    SourceError::Unavailable(format!("the store of readings has returned {returned} of the {found} documents that it found"))
}

fn several_times(wanted: &Wanted, hit: Option<&Hit>) -> SourceError {
    let id = hit.map_or_else(String::new, |hit| format!("{} of index {}", hit.id, hit.index));
    SourceError::Rejected(format!(
        "more than {} documents, such as {id}, have several times, some before and some after {}: their order cannot be told",
        wanted.rows, wanted.window.start_ms
    ))
}
