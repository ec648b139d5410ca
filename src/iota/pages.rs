//! A selection, read page after page. While connections are free, pages of one device are read side by side: one session of
//! PostgreSQL writes jsonb as text slower than the rest can take it.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Backend, Mapping, Page, Rows, Selection, Store, StoreError, postgres, rows::Out, select, sqlite};
use crate::task::Position;

/// Pages of a selection side by side, at the most; the first of them is handed on while the others are read.
const SIDE_BY_SIDE: usize = 3;
/// Rows of such a page, at the most.
const ROWS: u64 = 4_000;
/// Batches that such a page holds until its turn comes; what is more waits in its connection.
const HELD: usize = 16;

/// Where the next page begins.
enum Edge {
    After(Option<Position>),
    /// The store is asked for it: the last row of the page before.
    Asked(oneshot::Receiver<Option<Position>>),
    /// The page before is the last.
    End,
}

impl Edge {
    /// Waits for the store's answer.
    async fn answer(&mut self) {
        match self {
            // Where there is none the page before says why.
            Self::Asked(answer) => *self = answer.await.ok().flatten().map_or(Self::End, |last| Self::After(Some(last))),
            Self::After(_) | Self::End => std::future::pending().await,
        }
    }
}

impl Store {
    /// Reads a selection until it ends, or nobody wants more.
    pub(super) async fn read(&self, mut selection: Selection, mut out: Out) {
        // Bytes of a row, once there was a page of them.
        let mut mean = None;
        let failed = loop {
            let mapping = match self.mapping().await {
                Ok(mapping) => mapping,
                Err(error) => break error,
            };
            let place = tokio::select! {
                place = Arc::clone(&self.pages).acquire_owned() => place,
                () = out.unwanted() => return,
            };
            // Nobody closes the semaphore.
            let Ok(place) = place else { return };
            let read = match self.beside(mean) {
                Some((second, rows)) => {
                    self.side_by_side(&mapping, Places { first: place, second }, rows, &selection, &mut out).await
                }
                None => self.page(&mapping, &selection, &mut out, place).await.map(|page| {
                    mean = page.bytes.checked_div(page.rows);
                    page.last.filter(|_| page.rows == u64::from(self.config.page_rows))
                }),
            };
            match read {
                Ok(Some(last)) => selection.after = Some(last),
                Ok(None) => {
                    out.flush().await;
                    return;
                }
                Err(error) => break error,
            }
        };
        // The rows that came before the failure are good.
        out.fail(failed).await;
    }

    /// One page; returns what it brought.
    async fn page(
        &self,
        mapping: &Mapping,
        selection: &Selection,
        out: &mut Out,
        _place: OwnedSemaphorePermit,
    ) -> Result<Page, StoreError> {
        let query = select::page(mapping, selection, self.config.page_rows, None);
        match &self.backend {
            Backend::Postgres(pool) => postgres::page(pool, mapping, query, self.timeouts(), out).await,
            Backend::Sqlite(pool) => sqlite::page(pool, mapping, query, self.timeouts(), out).await,
        }
    }

    /// A second place, if one is free that makes reading faster, and the rows of a page whose rows have `mean` bytes.
    fn beside(&self, mean: Option<u64>) -> Option<(OwnedSemaphorePermit, u32)> {
        let (mean, Backend::Postgres(_)) = (mean?, &self.backend) else { return None };
        let second = Arc::clone(&self.pages).try_acquire_owned().ok()?;
        let fitting = (HELD * Out::BYTES) as u64 / mean.max(1);
        let rows = u32::try_from(fitting.clamp(1, ROWS)).unwrap_or(u32::MAX);
        Some((second, rows.min(self.config.page_rows)))
    }

    /// Reads pages side by side while there are places for them, and hands them on one after the other. Returns the last row
    /// handed on; nothing, if the selection has ended.
    async fn side_by_side(
        &self,
        mapping: &Arc<Mapping>,
        places: Places,
        rows: u32,
        selection: &Selection,
        out: &mut Out,
    ) -> Result<Option<Position>, StoreError> {
        let mut free = vec![places.second, places.first];
        let mut edge = Edge::After(selection.after.clone());
        // Each keeps its place until all of it is handed on, so that no more than these wait in memory.
        let mut pages = VecDeque::<(Rows, OwnedSemaphorePermit)>::new();
        loop {
            if let Edge::After(after) = &edge
                && pages.len() < SIDE_BY_SIDE
                && let Some(place) = free.pop().or_else(|| Arc::clone(&self.pages).try_acquire_owned().ok())
            {
                let selection = Selection { after: after.clone(), ..selection.clone() };
                let (page, answer) = self.read_ahead(Arc::clone(mapping), selection, rows);
                pages.push_back((page, place));
                edge = Edge::Asked(answer);
            }
            let Some((page, _)) = pages.front_mut() else {
                match edge {
                    Edge::After(last) => return Ok(last),
                    Edge::Asked(_) => edge.answer().await,
                    Edge::End => return Ok(None),
                }
                continue;
            };
            tokio::select! {
                biased;
                () = edge.answer() => {}
                batch = page.next() => match batch? {
                    Some(batch) => {
                        if !out.pass(batch).await {
                            return Ok(None);
                        }
                    }
                    None => drop(pages.pop_front()),
                },
            }
        }
    }

    /// Reads a page into a store of its own, and tells before where it ends.
    fn read_ahead(&self, mapping: Arc<Mapping>, selection: Selection, rows: u32) -> (Rows, oneshot::Receiver<Option<Position>>) {
        let (mut out, page) = Out::new(HELD);
        let (tell, answer) = oneshot::channel();
        let store = self.clone();
        tokio::spawn(async move {
            let Backend::Postgres(pool) = &store.backend else { return };
            let read = postgres::page_to_its_edge(pool, &mapping, selection, rows, store.timeouts(), tell, &mut out).await;
            match read {
                Ok(()) => drop(out.flush().await),
                Err(error) => out.fail(error).await,
            }
        });
        (page, answer)
    }
}

/// Two places to read at.
struct Places {
    first: OwnedSemaphorePermit,
    second: OwnedSemaphorePermit,
}
