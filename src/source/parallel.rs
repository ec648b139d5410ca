//! Reads pages of one device in parallel: a single PostgreSQL session serialises jsonb more slowly
//! than the rest of the pipeline consumes it.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::oneshot;

use super::{
    Mapping, Rows, Selection, Source, SourceError,
    backend::PagedReadings,
    pages::{PAGE_BYTES, Slot},
    rows::{ReadNext, RowSender},
};
use crate::task::Position;

/// Maximum pages of a selection at a time; the first is forwarded while the others are read.
const MAX_PARALLEL_PAGES: usize = 3;
/// Maximum rows of such a page.
const MAX_PAGE_ROWS: u32 = 4_000;

/// The start of the next page.
enum PageStart {
    After(Option<Position>),
    /// Waits for the boundary, the last row of the page before.
    Pending(oneshot::Receiver<Option<Position>>),
    /// The page before is the last one.
    End,
}

impl PageStart {
    /// Waits for the boundary.
    async fn resolve(&mut self) {
        match self {
            // If the sender was dropped, the page before ends with the error.
            Self::Pending(boundary) => *self = boundary.await.ok().flatten().map_or(Self::End, |last| Self::After(Some(last))),
            Self::After(_) | Self::End => std::future::pending().await,
        }
    }
}

impl Source {
    /// Returns a second connection permit and memory if both are free.
    pub(super) fn second_slot(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.shared.pages).try_acquire_owned().ok()?;
        Some(Slot { permit, memory: self.shared.budget.try_reserve(PAGE_BYTES)? })
    }

    /// Reads pages in parallel while slots are free, and forwards them in order. Returns false at
    /// the end of the selection.
    pub(super) async fn read_parallel(
        &self,
        store: &impl PagedReadings,
        mapping: &Arc<Mapping>,
        slots: [Slot; 2],
        rows: u32,
        selection: &Selection,
        sender: &mut RowSender,
    ) -> Result<bool, SourceError> {
        let rows = rows.min(MAX_PAGE_ROWS);
        let mut free = Vec::from(slots);
        let mut next_start = PageStart::After(selection.after.clone());
        let mut pages = VecDeque::<Rows>::new();
        loop {
            if let PageStart::After(after) = &next_start
                && pages.len() < MAX_PARALLEL_PAGES
                && let Some(slot) = free.pop().or_else(|| self.second_slot())
            {
                let selection = Selection { after: after.clone(), ..selection.clone() };
                let (page, boundary_rx) = self.read_ahead(store, Arc::clone(mapping), selection, rows, slot);
                pages.push_back(page);
                next_start = PageStart::Pending(boundary_rx);
            }
            let Some(page) = pages.front_mut() else {
                match next_start {
                    PageStart::After(_) => return Ok(true),
                    PageStart::Pending(_) => next_start.resolve().await,
                    PageStart::End => return Ok(false),
                }
                continue;
            };
            let next_batch = async {
                match sender.wait_until_consumed(RowSender::LOW_WATERMARK_BYTES, &self.shared.budget).await {
                    ReadNext::Continue => page.batch().await.map(Some),
                    ReadNext::Release | ReadNext::Restart(_) | ReadNext::Stop => Ok(None),
                }
            };
            tokio::select! {
                biased;
                () = next_start.resolve() => {}
                batch = next_batch => match batch? {
                    Some(Some(batch)) => drop(sender.forward(batch)),
                    Some(None) => drop(pages.pop_front()),
                    // The caller finds the reason by `wait_until_consumed`.
                    None => return Ok(true),
                },
            }
        }
    }

    /// Reads a page into a queue of its own, and sends its boundary first.
    fn read_ahead(
        &self,
        store: &impl PagedReadings,
        mapping: Arc<Mapping>,
        selection: Selection,
        rows: u32,
        slot: Slot,
    ) -> (Rows, oneshot::Receiver<Option<Position>>) {
        let (mut sender, page) = RowSender::new(None);
        let (boundary_tx, boundary_rx) = oneshot::channel();
        let (store, timeouts) = (store.clone(), self.timeouts());
        tokio::spawn(async move {
            let Slot { permit: _permit, memory } = slot;
            sender.set_memory(memory);
            let read = store.page_until_boundary(&mapping, selection, rows, timeouts, boundary_tx, &mut sender).await;
            sender.end(read);
        });
        (page, boundary_rx)
    }
}
