//! Opens devices in batches. For a small device, the statements cost more than its rows. So the
//! task that gets a connection takes all waiting devices of the same thing and range, looks them up
//! in one statement, and reads the first rows of each in a second one. A device with more rows is
//! detached and read by itself.

use std::sync::Arc;

use sea_query::SelectStatement;
use tokio::sync::SemaphorePermit;
use uuid::Uuid;

use super::{
    super::{
        Device, Mapping, Row, RowSender, Selection, Source, SourceError, budget::MemoryPermit, pages, pending::PendingDevice,
        select,
    },
    Server, read_batch,
};

/// Maximum rows of a device in a batch; a device with as many rows or more is detached.
const MAX_ROWS_PER_DEVICE: u32 = 256;
/// Maximum devices of a batch.
const MAX_DEVICES: usize = 32;

/// A device that is being opened.
struct Opening {
    pending: PendingDevice,
    /// Rows that have arrived.
    rows: u32,
}

impl Opening {
    /// Ends its rows in this batch, because there are no more or `max_rows` have arrived. Returns
    /// the device if it must be handled further, and the memory that its rows did not need.
    fn detach(&mut self, max_rows: u32) -> (Option<Detached>, MemoryPermit) {
        let Some(mut sender) = self.pending.sender.take() else { return (None, MemoryPermit::none()) };
        let memory = sender.take_memory();
        let is_finished = self.rows < max_rows;
        if is_finished {
            sender.end(Ok(()));
            if sender.release_if_small() {
                return (None, memory);
            }
        }
        (Some(Detached { selection: self.pending.selection.clone(), sender, is_finished }), memory)
    }
}

/// A device that is read further by a task of its own.
pub struct Detached {
    pub selection: Selection,
    pub sender: RowSender,
    /// All rows are read and not yet consumed.
    pub is_finished: bool,
}

/// Devices that are read in one batch.
pub struct DeviceBatch {
    devices: Vec<Opening>,
    /// Index of the device whose rows are arriving.
    current: usize,
    /// Devices that are read further by themselves.
    detached: Vec<Detached>,
    /// Memory for further rows.
    memory: MemoryPermit,
    /// Maximum rows of each device.
    max_rows: u32,
    rows: u64,
    bytes: u64,
}

impl DeviceBatch {
    /// Creates a batch; `mean_row_bytes` is the average size of a row, if known.
    pub fn new(devices: Vec<PendingDevice>, memory: MemoryPermit, mean_row_bytes: Option<u64>) -> Self {
        let all = pages::rows_that_fit(mean_row_bytes);
        let max_rows = mean_row_bytes
            .map_or(MAX_ROWS_PER_DEVICE, |_| all / u32::try_from(devices.len().max(1)).unwrap_or(u32::MAX))
            .clamp(1, MAX_ROWS_PER_DEVICE);
        let devices = devices.into_iter().map(|pending| Opening { pending, rows: 0 }).collect();
        Self { devices, current: 0, detached: Vec::new(), memory, max_rows, rows: 0, bytes: 0 }
    }

    /// Sets the mapping of the rows.
    pub fn set_mapping(&self, mapping: &Arc<Mapping>) {
        for sender in self.devices.iter().filter_map(|opening| opening.pending.sender.as_ref()) {
            sender.set_mapping(mapping);
        }
    }

    /// Average bytes of a row, if there was one.
    pub fn mean_row_bytes(&self) -> Option<u64> {
        self.bytes.checked_div(self.rows)
    }

    pub fn devices(&self, mapping: &Mapping) -> SelectStatement {
        let thing = self.devices.first().map_or_else(Uuid::nil, |opening| opening.pending.thing);
        select::devices(mapping, thing, self.devices.iter().map(|opening| opening.pending.selection.device))
    }

    /// Replies to each device with the result of its look-up. Devices that do not exist are
    /// dropped.
    pub fn reply_to_all(&mut self, found: &[(Uuid, Device)]) {
        // Two tasks may open the same device.
        self.devices.retain_mut(|Opening { pending, .. }| {
            let device = found.iter().find(|(id, _)| *id == pending.selection.device).map(|(_, device)| device.clone());
            pending.found(device)
        });
    }

    /// The query for the first rows of each remaining device.
    pub fn query(&self, mapping: &Mapping) -> Option<SelectStatement> {
        let selections: Vec<&Selection> = self.devices.iter().map(|opening| &opening.pending.selection).collect();
        select::first_rows(mapping, &selections, self.max_rows)
    }

    /// Passes a row on to the device of this index.
    pub fn push_row(&mut self, number: i32, row: Row) {
        let Ok(number) = usize::try_from(number) else { return };
        if number != self.current {
            self.detach_current();
            self.current = number;
        }
        self.rows += 1;
        self.bytes += row.bytes() as u64;
        let Some(Opening { pending, rows }) = self.devices.get_mut(number) else { return };
        let Some(sender) = &mut pending.sender else { return };
        if *rows == 0 {
            sender.set_memory(std::mem::replace(&mut self.memory, MemoryPermit::none()));
        }
        *rows += 1;
        pending.selection.after = Some(row.position.clone());
        if !sender.push(row) {
            self.memory = sender.take_memory();
            pending.sender = None;
        }
    }

    fn detach_current(&mut self) {
        if let Some(opening) =
            self.devices.get_mut(self.current).filter(|opening| opening.rows > 0 && opening.pending.sender.is_some())
        {
            let (detached, memory) = opening.detach(self.max_rows);
            self.detached.extend(detached);
            self.memory = memory;
        }
    }

    /// Ends the batch. Returns the devices to be read further: those with more rows, and, after an
    /// error or an incomplete read (`Ok(false)`), all whose end was not reached.
    pub fn finish(mut self, result: &Result<bool, SourceError>) -> Vec<Detached> {
        for mut opening in self.devices {
            match result {
                Ok(true) => self.detached.extend(opening.detach(self.max_rows).0),
                // It was not looked up: its job fails with this error.
                Err(error) if opening.pending.reply_to.is_some() => opening.pending.fail(error),
                // Rows that arrived are valid; the device is read further by itself.
                Ok(false) | Err(_) => {
                    if let Some(mut sender) = opening.pending.sender.take() {
                        drop(sender.take_memory());
                        self.detached.push(Detached { selection: opening.pending.selection, sender, is_finished: false });
                    }
                }
            }
        }
        self.detached
    }
}

impl Source {
    /// Opens the next batch of waiting devices, unless another task has taken them.
    pub(super) async fn run_next_batch(&self, server: &Server) {
        // Lets tasks that open devices at the same moment queue theirs first.
        tokio::task::yield_now().await;
        if server.pending.is_empty() {
            return;
        }
        let memory = self.shared.budget.reserve(pages::PAGE_BYTES).await;
        let Ok(permit) = self.shared.pages.acquire().await else { return };
        let pending = server.pending.take(MAX_DEVICES);
        if !pending.is_empty() {
            // Boxed: of many tasks that open devices together, only one gets here.
            Box::pin(self.open_batch(server, permit, memory, pending)).await;
        }
    }

    /// Reads a batch, and spawns a task for each device with more rows.
    async fn open_batch(&self, server: &Server, permit: SemaphorePermit<'_>, memory: MemoryPermit, pending: Vec<PendingDevice>) {
        let mut batch = DeviceBatch::new(pending, memory, self.mean_row_bytes());
        let read = async {
            let mapping = self.mapping().await?;
            batch.set_mapping(&mapping);
            let read = read_batch(server, &mapping, &mut batch, self.timeouts()).await;
            if let Err(SourceError::Changed(_) | SourceError::Rejected(_)) = &read {
                self.refresh_mapping(&mapping).await?;
            }
            read
        };
        let result = read.await;
        drop(permit);
        if let Err(error) = &result {
            tracing::warn!(%error, "devices could not be opened in a batch; each is read by itself");
        }
        self.record_mean_row_bytes(batch.mean_row_bytes());
        for detached in batch.finish(&result) {
            let (source, server) = (self.clone(), server.clone());
            tokio::spawn(async move {
                source.read_pages(&server, detached.selection, detached.sender, None, detached.is_finished).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_device_opened_by_two_tasks_is_found_for_both() {
        let (thing, device, other) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let mut receivers = Vec::new();
        let pending = [device, device, other].map(|device| {
            let (reply_to, receiver) = oneshot::channel();
            receivers.push(receiver);
            let selection = Selection { device, from: DateTime::UNIX_EPOCH, to: DateTime::UNIX_EPOCH, after: None };
            PendingDevice { thing, selection, reply_to: Some(reply_to), sender: Some(RowSender::new(None).0) }
        });
        let mut batch = DeviceBatch::new(pending.into(), MemoryPermit::none(), None);
        batch.reply_to_all(&[(device, Device { name: Some("水".to_owned()) })]);
        let mut found = Vec::new();
        for receiver in receivers {
            found.push(receiver.await.unwrap().unwrap().is_some());
        }
        assert_eq!(found, [true, true, false]);
        assert_eq!(batch.devices.len(), 2);
    }
}
