//! Reads devices of one task together, window by window, and passes each row to its device. One
//! window is read ahead while memory is free. No request waits for a consumer.
//!
//! A device that consumes its rows more slowly than the others leaves the group, and is read by
//! itself from then on, as is every device that continues after an interruption.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::DateTime;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{
    Cluster,
    fetch::{Fetched, Item, Place, Wanted, fetch},
    index,
    layout::IndexLayout,
    member::{Member, compact},
    query::Window,
    span::Span,
};
use crate::source::{
    Mapping, RowSender, Source, SourceError,
    budget::MemoryPermit,
    pages::{self, Slot},
    rows::ReadNext,
};

/// Between two looks at a group whose devices wait for each other.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A window that is being read.
struct Ahead {
    start_ms: i64,
    within: Option<Place>,
    /// Its rows are of several devices.
    is_group: bool,
    memory: MemoryPermit,
    fetched: AbortOnDropHandle<Result<Fetched, SourceError>>,
}

/// The devices of a group, and how far they are read.
pub struct Reader {
    source: Source,
    cluster: Cluster,
    members: Vec<Member>,
    /// All before this millisecond is read.
    next_ms: i64,
    /// A part of `next_ms` that is read.
    within: Option<Place>,
    /// Exclusive.
    end_ms: i64,
    span: Span,
    max_rows: Option<u32>,
    mean_row_bytes: Option<u64>,
    shards: Option<u32>,
    ahead: Option<Ahead>,
    layout_changes: u32,
}

impl Reader {
    /// A reader of devices with the same range.
    pub fn new(source: &Source, cluster: &Cluster, members: Vec<Member>) -> Self {
        let end = members.first().map_or(DateTime::UNIX_EPOCH, |member| member.selection.to);
        Self {
            source: source.clone(),
            cluster: cluster.clone(),
            next_ms: members.iter().map(Member::start_ms).min().unwrap_or_default(),
            members,
            within: None,
            end_ms: end.timestamp_millis().saturating_add(1),
            span: Span::default(),
            max_rows: None,
            mean_row_bytes: None,
            shards: None,
            ahead: None,
            layout_changes: 0,
        }
    }

    /// Reads at most so many rows in the first page.
    pub fn with_first_rows(mut self, rows: Option<u32>) -> Self {
        self.max_rows = rows;
        self
    }

    /// Reads all devices to their end. With `is_finished` all rows are read already, and are read
    /// again if they are dropped for lack of memory.
    pub async fn run(mut self, mut is_finished: bool) {
        loop {
            if !self.wait_until_consumed(&mut is_finished).await || is_finished {
                return;
            }
            let end = match self.read_window().await {
                Ok(true) => continue,
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            self.ahead = None;
            for member in &mut self.members {
                // The rows before an error are valid.
                member.sender.end(end.clone());
            }
            is_finished = true;
            if self.members.len() > 1 {
                for member in std::mem::take(&mut self.members) {
                    self.detach(member, true);
                }
                return;
            }
        }
    }

    /// Waits until most of what was read is consumed. Returns false if nobody receives any more.
    async fn wait_until_consumed(&mut self, is_finished: &mut bool) -> bool {
        loop {
            self.members.retain(|member| !member.sender.is_closed());
            match self.members.as_mut_slice() {
                [] => return false,
                [member] => {
                    let unread = if *is_finished { 0 } else { RowSender::LOW_WATERMARK_BYTES };
                    match member.sender.wait_until_consumed(unread, &self.source.shared.budget).await {
                        ReadNext::Stop => return false,
                        ReadNext::Continue => return true,
                        ReadNext::Release => self.ahead = None,
                        ReadNext::Restart(after) => {
                            member.sender.restart();
                            (member.selection.after, member.done) = (after.clone(), after);
                            (self.next_ms, self.within, self.ahead) = (member.start_ms(), None, None);
                            *is_finished = false;
                        }
                    }
                }
                members => {
                    let unread: usize = members.iter().map(|member| member.sender.unread_bytes()).sum();
                    if unread <= RowSender::LOW_WATERMARK_BYTES {
                        return true;
                    }
                    let others_wait =
                        self.source.shared.budget.has_waiters() || members.iter().any(|member| member.sender.is_starving());
                    if let Some(slow) = members.iter().position(|member| others_wait && member.sender.is_stale()) {
                        let member = self.members.swap_remove(slow);
                        self.detach(member, false);
                    } else if let Some(fullest) = members.iter().max_by_key(|member| member.sender.unread_bytes()) {
                        let _ = tokio::time::timeout(LOOK_AGAIN, fullest.sender.receiver_changed()).await;
                    }
                }
            }
        }
    }

    /// Reads a device further by itself.
    fn detach(&self, mut member: Member, is_finished: bool) {
        if is_finished && member.sender.release_if_small() {
            return;
        }
        // Rows of this group before its last one are not read again.
        member.selection.after = member.selection.after.or_else(|| member.done.clone());
        let mut alone = Self::new(&self.source, &self.cluster, vec![Member::new(member.selection, member.sender)]);
        if alone.next_ms <= self.next_ms {
            alone.next_ms = self.next_ms;
            alone.within.clone_from(&self.within);
        }
        alone.mean_row_bytes = self.mean_row_bytes;
        tokio::spawn(alone.run(is_finished));
    }

    /// Reads the next window. Returns false at the end.
    async fn read_window(&mut self) -> Result<bool, SourceError> {
        if self.next_ms >= self.end_ms {
            return Ok(false);
        }
        let mapping = self.source.mapping().await?;
        let layout = self.check_mapping(&mapping)?;
        let ahead = self.ahead.take().filter(|ahead| ahead.start_ms == self.next_ms && ahead.within == self.within);
        let Ahead { is_group, memory, fetched, .. } = if let Some(ahead) = ahead {
            ahead
        } else {
            self.cluster.settle(self.window().end_ms, self.end_ms).await;
            let slot = self.source.slot().await.ok_or_else(|| SourceError::Unavailable("the source was closed".to_owned()))?;
            self.begin(&layout, slot)
        };
        let fetched = fetched.await.unwrap_or_else(|error| Err(SourceError::Unknown(format!("a page was not read: {error}"))));
        match fetched {
            Ok(fetched) => match self.look_for_change(&fetched, &layout) {
                Some(change) => self.handle_change(&mapping, SourceError::Changed(change)).await?,
                None => self.accept(fetched, memory, is_group, &layout),
            },
            Err(error @ (SourceError::Rejected(_) | SourceError::Changed(_))) => self.handle_change(&mapping, error).await?,
            Err(error) => return Err(error),
        }
        Ok(self.next_ms < self.end_ms)
    }

    fn check_mapping(&self, mapping: &Arc<Mapping>) -> Result<Arc<IndexLayout>, SourceError> {
        for member in &self.members {
            member.sender.continue_with_mapping(mapping)?;
        }
        index(mapping).cloned()
    }

    fn window(&self) -> Window {
        Window { start_ms: self.next_ms, end_ms: self.span.end(self.next_ms, self.end_ms) }
    }

    /// Begins to read the next window.
    fn begin(&self, layout: &Arc<IndexLayout>, slot: Slot) -> Ahead {
        let Slot { permit, memory } = slot;
        let mean = self.mean_row_bytes.or_else(|| self.source.mean_row_bytes());
        let limits = [self.source.shared.config.page_rows, layout.max_page_rows, self.max_rows.unwrap_or(u32::MAX)];
        let (window, is_group) = (self.window(), self.members.len() > 1);
        let devices =
            self.members.iter().filter(|member| member.start_ms() < window.end_ms).map(|member| member.selection.device);
        let wanted = Wanted {
            devices: devices.collect(),
            window,
            rows: limits.into_iter().fold(pages::rows_that_fit(mean), u32::min),
            after: self.within.clone(),
            is_group,
        };
        let (cluster, layout) = (self.cluster.clone(), Arc::clone(layout));
        let fetched = tokio::spawn(async move {
            let _permit = permit;
            fetch(&cluster, &layout, wanted).await
        });
        let fetched = AbortOnDropHandle::new(fetched);
        Ahead { start_ms: self.next_ms, within: self.within.clone(), is_group, memory, fetched }
    }

    /// Whether the indices are others than before.
    fn look_for_change(&mut self, fetched: &Fetched, layout: &IndexLayout) -> Option<String> {
        // An alias with a routing asks fewer shards than its indices have.
        let before = self.shards.unwrap_or_else(|| self.cluster.shards.load(Ordering::Relaxed));
        self.shards = Some(fetched.shards);
        if before != fetched.shards && layout.shards != fetched.shards {
            self.cluster.shards.store(fetched.shards, Ordering::Relaxed);
            return Some(format!(
                "{} shards of {} were asked, and {} before",
                fetched.shards,
                layout.index,
                if before == 0 { layout.shards } else { before }
            ));
        }
        let mut known = "";
        for item in &fetched.items {
            if *item.place.index != *known && !layout.indices.contains(&*item.place.index) {
                return Some(format!("{} has a new index, {}", layout.index, item.place.index));
            }
            known = &item.place.index;
        }
        None
    }

    /// Looks at the indices again. If they store readings as before, reading goes on.
    async fn handle_change(&mut self, mapping: &Arc<Mapping>, error: SourceError) -> Result<(), SourceError> {
        let error = self.source.look_again(mapping, error, &mut self.layout_changes).await?;
        tracing::info!(%error, "the indices of the readings have changed; the window is read again");
        Ok(())
    }

    /// Passes what was read on, and begins to read the next window if memory is free.
    fn accept(&mut self, fetched: Fetched, memory: MemoryPermit, is_group: bool, layout: &Arc<IndexLayout>) {
        self.layout_changes = 0;
        if is_group && fetched.items.iter().any(|item| item.device.is_none()) {
            // The query found it, but by a term that is not in the document as it is.
            for member in std::mem::take(&mut self.members) {
                self.detach(member, false);
            }
            return;
        }
        self.span.adapt(fetched.items.len(), fetched.until_ms - self.next_ms, fetched.rows);
        self.mean_row_bytes = (fetched.bytes as u64).checked_div(fetched.documents as u64).or(self.mean_row_bytes);
        self.source.record_mean_row_bytes(self.mean_row_bytes);
        self.max_rows = self.max_rows.and_then(|rows| rows.checked_mul(2));
        (self.next_ms, self.within) = (fetched.until_ms, fetched.within);
        if self.next_ms < self.end_ms
            && self.cluster.is_settled(self.window().end_ms)
            && let Some(slot) = self.source.second_slot()
        {
            self.ahead = Some(self.begin(layout, slot));
        }
        self.distribute(fetched.items, memory, is_group);
    }

    fn distribute(&mut self, items: Vec<Item>, mut memory: MemoryPermit, is_group: bool) {
        if !is_group {
            if let Some(member) = self.members.first_mut() {
                member.push(items, memory);
            }
            return;
        }
        let numbers: HashMap<Uuid, usize> = (0..).zip(&self.members).map(|(n, member)| (member.selection.device, n)).collect();
        let mut of_members: Vec<Vec<Item>> = self.members.iter().map(|_| Vec::new()).collect();
        for item in items {
            let number = item.device.and_then(|device| numbers.get(&device));
            // A device that has left the group is read by another reader.
            if let Some(of_member) = number.and_then(|number| of_members.get_mut(*number)) {
                of_member.push(item);
            }
        }
        for (member, mut items) in self.members.iter_mut().zip(of_members) {
            compact(&mut items);
            let bytes = items.iter().map(Item::bytes).sum();
            member.push(items, memory.split(bytes));
        }
    }
}
