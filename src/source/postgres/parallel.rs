//! Pages of one device, read side by side: one session of PostgreSQL writes jsonb as text slower than the rest can take it.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::oneshot;

use super::{
    super::{
        Backend, Mapping, Rows, Selection, Source, SourceError,
        pages::{PAGE_BYTES, Slot},
        rows::{Next, RowSender},
    },
    page_until_boundary,
};
use crate::task::Position;

/// Pages of a selection side by side, at the most; the first of them is handed on while the others are read.
const MAX_PARALLEL_PAGES: usize = 3;
/// Rows of such a page, at the most.
const MAX_PAGE_ROWS: u32 = 4_000;

/// Where the next page begins.
enum PageStart {
    After(Option<Position>),
    /// The store is asked for it: the last row of the page before.
    Asked(oneshot::Receiver<Option<Position>>),
    /// The page before is the last.
    End,
}

impl PageStart {
    /// Waits for the store's answer.
    async fn answer(&mut self) {
        match self {
            // Where there is none the page before says why.
            Self::Asked(answer) => *self = answer.await.ok().flatten().map_or(Self::End, |last| Self::After(Some(last))),
            Self::After(_) | Self::End => std::future::pending().await,
        }
    }
}

impl Source {
    /// Another connection and memory, if both are free and make reading faster.
    pub(in crate::source) fn second_slot(&self) -> Option<Slot> {
        let Backend::Postgres(_) = &self.backend else { return None };
        let place = Arc::clone(&self.pages).try_acquire_owned().ok()?;
        Some(Slot { place, share: self.budget.try_reserve(PAGE_BYTES)? })
    }

    /// Reads pages side by side while there are places for them, and hands them on one after the other. `false`: the selection
    /// has ended.
    pub(in crate::source) async fn read_parallel(
        &self,
        mapping: &Arc<Mapping>,
        slots: [Slot; 2],
        rows: u32,
        selection: &Selection,
        out: &mut RowSender,
    ) -> Result<bool, SourceError> {
        let rows = rows.min(MAX_PAGE_ROWS);
        let mut free = Vec::from(slots);
        let mut edge = PageStart::After(selection.after.clone());
        let mut pages = VecDeque::<Rows>::new();
        loop {
            if let PageStart::After(after) = &edge
                && pages.len() < MAX_PARALLEL_PAGES
                && let Some(slot) = free.pop().or_else(|| self.second_slot())
            {
                let selection = Selection { after: after.clone(), ..selection.clone() };
                let (page, answer) = self.read_ahead(Arc::clone(mapping), selection, rows, slot);
                pages.push_back(page);
                edge = PageStart::Asked(answer);
            }
            let Some(page) = pages.front_mut() else {
                match edge {
                    PageStart::After(_) => return Ok(true),
                    PageStart::Asked(_) => edge.answer().await,
                    PageStart::End => return Ok(false),
                }
                continue;
            };
            let hand_on = async {
                match out.taken(RowSender::LOW, &self.budget).await {
                    Next::More => page.batch().await.map(Some),
                    Next::Again(_) | Next::Nothing => Ok(None),
                }
            };
            tokio::select! {
                biased;
                () = edge.answer() => {}
                batch = hand_on => match batch? {
                    Some(Some(batch)) => drop(out.forward(batch)),
                    Some(None) => drop(pages.pop_front()),
                    // Whoever called asks for the reason.
                    None => return Ok(true),
                },
            }
        }
    }

    /// Reads a page into a store of its own, and tells before where it ends.
    fn read_ahead(
        &self,
        mapping: Arc<Mapping>,
        selection: Selection,
        rows: u32,
        slot: Slot,
    ) -> (Rows, oneshot::Receiver<Option<Position>>) {
        let (mut out, page) = RowSender::new(None);
        let (tell, answer) = oneshot::channel();
        let store = self.clone();
        tokio::spawn(async move {
            let Slot { place: _place, share } = slot;
            out.set_share(share);
            let Backend::Postgres(server) = &store.backend else { return };
            let read = page_until_boundary(server, &mapping, selection, rows, store.timeouts(), tell, &mut out).await;
            out.end(read);
        });
        (page, answer)
    }
}
