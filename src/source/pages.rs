//! A selection, read page after page. While connections are free, pages of one device are read side by side: one session of
//! PostgreSQL writes jsonb as text slower than the rest can take it.
//!
//! A page is read to its end into memory, or given up: no statement waits for who takes the rows.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::{
    Backend, Mapping, Page, Selection, Source, SourceError,
    budget::Share,
    postgres,
    rows::{Next, RowSender},
    select, sqlite,
};

/// Bytes of a page, at the most; one row is always read, however large.
pub(super) const PAGE_BYTES: usize = 4 * 1_024 * 1_024;
/// Bytes of a row, as long as none was seen.
const ASSUMED_ROW_BYTES: u64 = 1_024;
/// So often in a row a page is tried again because its tables were being rewritten.
const MAX_LAYOUT_CHANGES: u32 = 20;

/// A connection, and memory for a page.
pub(super) struct Slot {
    pub place: OwnedSemaphorePermit,
    pub share: Share,
}

/// What is known of a selection while it is read.
#[derive(Default)]
struct ReadState {
    /// Bytes of a row.
    mean: Option<u64>,
    /// Rows of a page, at the most, after one that had to give way.
    most: Option<u32>,
    rewrites: u32,
}

impl Source {
    /// Reads a selection until it ends, or nobody wants more; `is_read`: until it is read again, it was read.
    pub(super) async fn read(&self, selection: Selection, out: RowSender, is_read: bool) {
        self.read_on(selection, out, ReadState::default(), is_read).await;
    }

    /// The same from the beginning, with so many rows in the first page.
    pub(super) async fn read_from(&self, selection: Selection, out: RowSender, rows: u32) {
        let seen = ReadState { most: Some(rows), ..ReadState::default() };
        self.read_on(selection, out, seen, false).await;
    }

    async fn read_on(&self, mut selection: Selection, mut out: RowSender, mut seen: ReadState, mut is_read: bool) {
        loop {
            // Once all is read this task waits for the last row to be taken: until then rows may have to be read again.
            match out.taken(if is_read { 0 } else { RowSender::LOW }, &self.budget).await {
                Next::Nothing => return,
                Next::More if is_read => return,
                Next::More => {}
                Next::Again(after) => {
                    out.restart();
                    (selection.after, is_read) = (after, false);
                }
            }
            match self.step(&mut selection, &mut out, &mut seen).await {
                Ok(true) => {}
                Ok(false) => {
                    out.end(Ok(()));
                    is_read = true;
                }
                Err(error) => {
                    // The rows that came before the failure are good.
                    out.end(Err(error));
                    is_read = true;
                }
            }
        }
    }

    /// Reads the next page, or pages, of a selection. `false`: it has ended.
    async fn step(&self, selection: &mut Selection, out: &mut RowSender, seen: &mut ReadState) -> Result<bool, SourceError> {
        let mapping = self.mapping().await?;
        // A position means something in the layout only that it was read in.
        if let Some(before) = out.mapping().filter(|before| !before.reads_like(&mapping)) {
            return Err(before.changed_to(&mapping));
        }
        out.set_mapping(&mapping);
        let mean = seen.mean.or_else(|| self.mean_row_bytes());
        let limit = rows_that_fit(mean).min(self.config.page_rows).min(seen.most.unwrap_or(u32::MAX));
        let slot = tokio::select! {
            slot = self.slot() => slot,
            () = out.closed() => return Ok(true),
        };
        let Some(slot) = slot else { return Ok(false) };
        let read = match seen.mean.and_then(|_| self.second_slot()) {
            Some(second) => self.read_parallel(&mapping, [second, slot], limit, selection, out).await,
            None => self.page(&mapping, selection, limit, out, slot).await.map(|page| {
                seen.mean = page.bytes.checked_div(page.rows).or(seen.mean);
                self.record_mean_row_bytes(seen.mean);
                !page.is_whole || page.rows == u64::from(limit)
            }),
        };
        if let Some(last) = out.page_ends() {
            selection.after = Some(last);
        }
        self.judge(read, &mapping, limit, seen).await
    }

    /// What becomes of a selection after a page.
    async fn judge(
        &self,
        read: Result<bool, SourceError>,
        mapping: &Arc<Mapping>,
        limit: u32,
        seen: &mut ReadState,
    ) -> Result<bool, SourceError> {
        match read {
            Ok(more) => {
                seen.most = seen.most.and_then(|most| most.checked_mul(2));
                seen.rewrites = 0;
                Ok(more)
            }
            Err(SourceError::GaveWay) => {
                seen.most = Some((limit / 2).max(1));
                tracing::info!(rows = seen.most, "a page gave way to others who waited for its table; read on in smaller pages");
                Ok(true)
            }
            Err(error @ (SourceError::Changed(_) | SourceError::Rejected(_))) => {
                let now = self.refresh_mapping(mapping).await?;
                if !mapping.reads_like(&now) {
                    return Err(mapping.changed_to(&now));
                }
                // A table that was rewritten looks empty to a statement that began before.
                seen.rewrites += 1;
                if matches!(error, SourceError::Rejected(_)) || seen.rewrites > MAX_LAYOUT_CHANGES {
                    return Err(error);
                }
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// One page; returns what it brought.
    async fn page(
        &self,
        mapping: &Mapping,
        selection: &Selection,
        limit: u32,
        out: &mut RowSender,
        slot: Slot,
    ) -> Result<Page, SourceError> {
        let Slot { place: _place, share } = slot;
        out.set_share(share);
        let query = select::page(mapping, selection, limit, None);
        match &self.backend {
            Backend::Postgres(server) => postgres::page(server, mapping, query, self.timeouts(), out).await,
            Backend::Sqlite(pool) => sqlite::page(pool, mapping, query, self.timeouts(), out).await,
        }
    }

    /// Waits for memory, and then for a connection: who has a connection waits for nobody.
    async fn slot(&self) -> Option<Slot> {
        let share = self.budget.reserve(PAGE_BYTES).await;
        // Nobody closes the semaphore.
        let place = Arc::clone(&self.pages).acquire_owned().await.ok()?;
        Some(Slot { place, share })
    }
}

/// Rows of so many bytes on average that a page is asked for. An eighth of the page is left free: a page that passes its
/// limit is cut off, and its connection is lost with it.
pub(super) fn rows_that_fit(mean: Option<u64>) -> u32 {
    let bytes = (PAGE_BYTES - PAGE_BYTES / 8) as u64;
    u32::try_from(bytes / mean.unwrap_or(ASSUMED_ROW_BYTES).max(1)).unwrap_or(u32::MAX).max(1)
}
