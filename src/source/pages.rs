//! Reads a selection page by page.
//!
//! A page is read completely into memory, or abandoned: a statement never waits for the consumer of
//! the rows.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::{
    Mapping, Page, Selection, Source, SourceError,
    backend::PagedReadings,
    budget::MemoryPermit,
    rows::{ReadNext, RowSender},
};

/// Maximum bytes of a page; one row is always read, however large.
pub(super) const PAGE_BYTES: usize = 4 * 1_024 * 1_024;
/// Assumed bytes of a row before the first page.
const ASSUMED_ROW_BYTES: u64 = 1_024;
/// Maximum consecutive retries of a page whose tables are being rewritten.
const MAX_LAYOUT_CHANGES: u32 = 20;

/// A connection permit, and memory for a page.
pub(super) struct Slot {
    pub permit: OwnedSemaphorePermit,
    pub memory: MemoryPermit,
}

/// The state of reading a selection.
#[derive(Default)]
struct ReadState {
    /// Average bytes of a row in the last page.
    mean_row_bytes: Option<u64>,
    /// Maximum rows of a page; reduced after a page that was cancelled for blocking others.
    max_rows: Option<u32>,
    layout_changes: u32,
}

impl Source {
    /// Reads a selection to its end, as [`ReadingsBackend::read`](super::backend::ReadingsBackend)
    /// demands.
    pub(super) async fn read_pages(
        &self,
        store: &impl PagedReadings,
        mut selection: Selection,
        mut sender: RowSender,
        first_rows: Option<u32>,
        mut is_finished: bool,
    ) {
        let mut state = ReadState { max_rows: first_rows, ..ReadState::default() };
        loop {
            // After the last page this task waits until all rows are consumed: until then, dropped
            // rows may have to be read again.
            match sender
                .wait_until_consumed(if is_finished { 0 } else { RowSender::LOW_WATERMARK_BYTES }, &self.shared.budget)
                .await
            {
                ReadNext::Stop => return,
                ReadNext::Continue if is_finished => return,
                ReadNext::Continue => {}
                // Nothing is read ahead here.
                ReadNext::Release => continue,
                ReadNext::Restart(after) => {
                    sender.restart();
                    (selection.after, is_finished) = (after, false);
                }
            }
            match self.read_next(store, &mut selection, &mut sender, &mut state).await {
                Ok(true) => {}
                Ok(false) => {
                    sender.end(Ok(()));
                    is_finished = true;
                }
                Err(error) => {
                    // The rows before the failure are valid.
                    sender.end(Err(error));
                    is_finished = true;
                }
            }
        }
    }

    /// Reads the next page, or several in parallel. Returns false at the end of the selection.
    async fn read_next(
        &self,
        store: &impl PagedReadings,
        selection: &mut Selection,
        sender: &mut RowSender,
        state: &mut ReadState,
    ) -> Result<bool, SourceError> {
        let mapping = self.mapping().await?;
        sender.continue_with_mapping(&mapping)?;
        let mean_row_bytes = state.mean_row_bytes.or_else(|| self.mean_row_bytes());
        let limit = rows_that_fit(mean_row_bytes).min(self.shared.config.page_rows).min(state.max_rows.unwrap_or(u32::MAX));
        let slot = tokio::select! {
            slot = self.slot() => slot,
            () = sender.closed() => return Ok(true),
        };
        let Some(slot) = slot else { return Ok(false) };
        let read = match state.mean_row_bytes.and_then(|_| self.second_slot()) {
            Some(second) => self.read_parallel(store, &mapping, [second, slot], limit, selection, sender).await,
            None => self.page(store, &mapping, selection, limit, sender, slot).await.map(|page| {
                state.mean_row_bytes = page.bytes.checked_div(page.rows).or(state.mean_row_bytes);
                self.record_mean_row_bytes(state.mean_row_bytes);
                !page.is_complete || page.rows == u64::from(limit)
            }),
        };
        if let Some(last) = sender.end_page() {
            selection.after = Some(last);
        }
        self.handle_page_result(read, &mapping, limit, state).await
    }

    /// Decides how to continue after a page. Returns false at the end of the selection.
    async fn handle_page_result(
        &self,
        read: Result<bool, SourceError>,
        mapping: &Arc<Mapping>,
        limit: u32,
        state: &mut ReadState,
    ) -> Result<bool, SourceError> {
        match read {
            Ok(more) => {
                state.max_rows = state.max_rows.and_then(|max_rows| max_rows.checked_mul(2));
                state.layout_changes = 0;
                Ok(more)
            }
            Err(SourceError::Yielded) => {
                state.max_rows = Some((limit / 2).max(1));
                tracing::info!(
                    rows = state.max_rows,
                    "a page was cancelled because other sessions waited for its table; smaller pages are read from now on"
                );
                Ok(true)
            }
            Err(error @ (SourceError::Changed(_) | SourceError::Rejected(_))) => {
                // If the layout is the same, a table was rewritten: it looks empty to an older
                // snapshot.
                self.look_again(mapping, error, &mut state.layout_changes).await.map(|_| true)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the layout again after an error that a change of it can be the cause of. Returns the
    /// error if the same page may be read again; `changes` counts how often that was so.
    ///
    /// # Errors
    /// The layout has changed, or the same page would fail again.
    pub(super) async fn look_again(
        &self,
        mapping: &Arc<Mapping>,
        error: SourceError,
        changes: &mut u32,
    ) -> Result<SourceError, SourceError> {
        let new_mapping = self.refresh_mapping(mapping).await?;
        if !mapping.has_same_types(&new_mapping) {
            return Err(mapping.change_error(&new_mapping));
        }
        *changes += 1;
        if matches!(error, SourceError::Rejected(_)) || *changes > MAX_LAYOUT_CHANGES {
            return Err(error);
        }
        Ok(error)
    }

    /// Reads one page.
    async fn page(
        &self,
        store: &impl PagedReadings,
        mapping: &Mapping,
        selection: &Selection,
        limit: u32,
        sender: &mut RowSender,
        slot: Slot,
    ) -> Result<Page, SourceError> {
        let Slot { permit: _permit, memory } = slot;
        sender.set_memory(memory);
        store.page(mapping, selection, limit, self.timeouts(), sender).await
    }

    /// Waits for memory first and for a connection second, so that no task holds a connection while
    /// it waits.
    pub(super) async fn slot(&self) -> Option<Slot> {
        let memory = self.shared.budget.reserve(PAGE_BYTES).await;
        // The semaphore is never closed.
        let permit = Arc::clone(&self.shared.pages).acquire_owned().await.ok()?;
        Some(Slot { permit, memory })
    }
}

/// The number of rows to request for a page, by their average bytes. An eighth of the page is left
/// free: a page that exceeds its limit is cut off, which also closes its connection.
pub(super) fn rows_that_fit(mean_row_bytes: Option<u64>) -> u32 {
    let bytes = (PAGE_BYTES - PAGE_BYTES / 8) as u64;
    u32::try_from(bytes / mean_row_bytes.unwrap_or(ASSUMED_ROW_BYTES).max(1)).unwrap_or(u32::MAX).max(1)
}
