//! Reads a millisecond that has more documents than a page: by a scroll, since nothing else tells
//! equal times apart on every version. The scroll is read to its end at once and waits for nobody.
//! If the documents do not fit in memory, the first ones in order are kept, and the scroll is
//! repeated for the rest.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Cluster,
    error::HttpError,
    fetch::{Fetched, Item, PageRows, Place, Wanted, incomplete, max_bytes},
    layout::IndexLayout,
    query::{self, Window},
    response::{Page, scroll_id},
};
use crate::source::SourceError;

/// Bytes of documents that are kept.
const MAX_BYTES: usize = 16 * 1_024 * 1_024;
/// What a document takes besides its bytes.
const ITEM_BYTES: usize = 200;

/// Reads the documents of a millisecond in order, after a place in it.
///
/// # Errors
/// The store is unavailable, or a page was lost: a scroll cannot repeat one.
pub async fn read(
    cluster: &Cluster,
    layout: &IndexLayout,
    wanted: &Wanted,
    ms: i64,
    after: Option<Place>,
) -> Result<Fetched, SourceError> {
    let mut page = PageRows::new(wanted.rows);
    loop {
        let mut scroll = Scroll { cluster, id: None };
        let mut first = Earliest::new(after.clone(), MAX_BYTES);
        match scroll.read(layout, wanted, ms, page.rows, &mut first).await? {
            Ok(totals) => return Ok(fetched(first, totals, page.rows, ms)),
            Err(error) => page.shrink(error).await?,
        }
    }
}

#[derive(Clone, Copy)]
struct Totals {
    shards: u32,
    bytes: usize,
    documents: usize,
}

fn fetched(first: Earliest, totals: Totals, rows: u32, ms: i64) -> Fetched {
    let has_more = first.has_more;
    let items: Vec<_> = first.items.into_values().collect();
    let within = items.last().filter(|_| has_more).map(|item| item.place.clone());
    let until_ms = if has_more { ms } else { ms.saturating_add(1) };
    Fetched { items, until_ms, within, rows, bytes: totals.bytes, documents: totals.documents, shards: totals.shards }
}

/// A scroll, which is cleared when dropped: the store keeps few of them.
struct Scroll<'a> {
    cluster: &'a Cluster,
    id: Option<String>,
}

impl Scroll<'_> {
    /// Reads to the end. The inner error asks for smaller pages.
    async fn read(
        &mut self,
        layout: &IndexLayout,
        wanted: &Wanted,
        ms: i64,
        rows: u32,
        first: &mut Earliest,
    ) -> Result<Result<Totals, HttpError>, SourceError> {
        let window = Window { start_ms: ms, end_ms: ms.saturating_add(1) };
        let copy = wanted.devices.first().copied().unwrap_or_default();
        let mut request = query::scroll(layout, &wanted.devices, window, rows, copy);
        let (mut seen, mut total, mut totals) = (0, None, Totals { shards: 0, bytes: 0, documents: 0 });
        loop {
            request.max_bytes = max_bytes(rows);
            let body = match self.cluster.http.send_once(&request).await {
                Ok(body) => body,
                Err(HttpError::Refused(refusal)) if refusal.status == 404 => {
                    return Err(SourceError::Unavailable(format!("a scroll was lost: {refusal}")));
                }
                Err(error) => return Ok(Err(error)),
            };
            let page = Page::read(&body).inspect_err(|_| {
                // The store keeps it nevertheless.
                self.id = scroll_id(&body).or_else(|| self.id.take());
            })?;
            self.id.clone_from(&page.scroll_id);
            let found = *total.get_or_insert(page.total);
            totals =
                Totals { shards: page.shards, bytes: totals.bytes + page.bytes, documents: totals.documents + page.hits.len() };
            if page.hits.is_empty() {
                return if seen < found { Err(incomplete(seen, found)) } else { Ok(Ok(totals)) };
            }
            seen += page.hits.len() as u64;
            for hit in page.hits.iter().filter(|hit| hit.ms == ms) {
                // Copied, so that the rest of the page does not stay in memory.
                let doc = page.document(hit).map(|doc| Bytes::copy_from_slice(&doc));
                first.add(Item::new(hit, doc, layout, wanted.is_group));
            }
            let Some(id) = &self.id else {
                return Err(SourceError::Unknown("the store of readings returned a scroll without an id".to_owned()));
            };
            request = query::next_of_scroll(id);
        }
    }
}

impl Drop for Scroll<'_> {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.cluster.http.send_in_background(query::clear_scroll(id));
        }
    }
}

/// The first items in order after a place, as many as fit.
struct Earliest {
    after: Option<Place>,
    max_bytes: usize,
    bytes: usize,
    items: BTreeMap<Place, Item>,
    /// Some did not fit.
    has_more: bool,
}

impl Earliest {
    fn new(after: Option<Place>, max_bytes: usize) -> Self {
        Self { after, max_bytes, bytes: 0, items: BTreeMap::new(), has_more: false }
    }

    fn add(&mut self, item: Item) {
        let is_past = self.after.as_ref().is_some_and(|after| item.place <= *after);
        let is_late = self.has_more && self.items.last_key_value().is_none_or(|(last, _)| item.place > *last);
        if is_past || is_late {
            return;
        }
        self.bytes += bytes(&item);
        self.items.insert(item.place.clone(), item);
        // At least one, however large.
        while self.bytes > self.max_bytes && self.items.len() > 1 {
            self.has_more = true;
            if let Some((_, item)) = self.items.pop_last() {
                self.bytes -= bytes(&item);
            }
        }
    }
}

fn bytes(item: &Item) -> usize {
    ITEM_BYTES + item.doc.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn item(number: u32) -> Item {
        let place = Place { ms: 1, nanos: number / 10, id: format!("{number:04}").into(), index: Arc::from("raw") };
        Item { place, device: None, doc: None }
    }

    proptest! {
        #[test]
        fn all_items_come_in_order_whatever_fits(mut numbers in proptest::collection::btree_set(0_u32..500, 0..60).prop_map(Vec::from_iter).prop_shuffle(), fit in 1_usize..80) {
            let (mut read, mut after) = (Vec::new(), None);
            loop {
                let mut first = Earliest::new(after.clone(), fit * ITEM_BYTES);
                for number in &numbers {
                    first.add(item(*number));
                }
                prop_assert!(first.items.len() <= fit.max(1));
                let has_more = first.has_more;
                read.extend(first.items.into_keys());
                after = read.last().cloned();
                if !has_more {
                    break;
                }
            }
            numbers.sort_unstable();
            let expected: Vec<_> = numbers.iter().map(|number| item(*number).place).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
