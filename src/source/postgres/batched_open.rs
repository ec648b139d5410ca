//! Devices that are read together. A question costs PostgreSQL and us more than a small device's rows do; so whoever gets a
//! connection takes along all devices of the same thing and range that wait for one, looks them up in one question and
//! reads the first rows of each in another. A device that has more goes on by itself.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use sea_query::SelectStatement;
use tokio::sync::{SemaphorePermit, oneshot};
use uuid::Uuid;

use super::{
    super::{Device, Mapping, Row, RowSender, Selection, Source, SourceError, budget::Share, pages, rows::Found, select},
    Server, batch,
};

/// Rows that a device may have to be read wholly together with others.
const MAX_ROWS_PER_DEVICE: u32 = 256;
/// Bytes of a device that are not worth being counted, or dropped and read again.
const MAX_BYTES_PER_DEVICE: usize = 16 * 1_024;
/// Devices that go together, at the most.
const MAX_DEVICES: usize = 32;

/// A device that waits to be looked up and read from its beginning.
pub struct PendingDevice {
    pub thing: Uuid,
    pub selection: Selection,
    /// Where it is told; taken when it is.
    pub device: Option<oneshot::Sender<Found>>,
    /// Where its rows go; taken when there are no more.
    pub out: Option<RowSender>,
    pub rows: u32,
}

impl PendingDevice {
    fn group_key(&self) -> (Uuid, DateTime<Utc>, DateTime<Utc>) {
        (self.thing, self.selection.from, self.selection.to)
    }

    fn reply(&mut self, found: Found) {
        if let Some(device) = self.device.take() {
            // Nobody may wait for it any more.
            let _ = device.send(found);
        }
    }

    /// No more of it comes here, since it has no more, or `first` rows have come. What is to be done about it yet, if
    /// anything; and the memory that its rows did not need.
    fn detach(&mut self, first: u32) -> (Option<Detached>, Share) {
        let Some(mut out) = self.out.take() else { return (None, Share::none()) };
        let share = out.take_share();
        let is_read = self.rows < first;
        if is_read {
            out.end(Ok(()));
            if out.waiting_bytes() <= MAX_BYTES_PER_DEVICE {
                out.uncount();
                return (None, share);
            }
        }
        (Some(Detached { selection: self.selection.clone(), out, is_read }), share)
    }
}

/// A device that goes on by itself.
pub struct Detached {
    pub selection: Selection,
    pub out: RowSender,
    /// All of it was read, and waits to be taken.
    pub is_read: bool,
}

/// Devices that wait for a connection.
#[derive(Clone, Default)]
pub struct BatchQueue(Arc<Mutex<Vec<PendingDevice>>>);

impl BatchQueue {
    pub fn push(&self, member: PendingDevice) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(member);
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Those that can go with the one that has waited longest.
    pub fn take(&self) -> Vec<PendingDevice> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(company) = waiting.first().map(PendingDevice::group_key) else { return Vec::new() };
        let mut left = MAX_DEVICES;
        waiting
            .extract_if(.., |member| {
                let goes = left > 0 && member.group_key() == company;
                left -= usize::from(goes);
                goes
            })
            .collect()
    }
}

/// Devices that are read together.
pub struct DeviceBatch {
    devices: Vec<PendingDevice>,
    /// The one whose rows are coming.
    current: usize,
    /// What is to be read on by itself.
    parted: Vec<Detached>,
    /// Memory for rows that are still to come.
    share: Share,
    /// Rows of each, at the most.
    first: u32,
    rows: u64,
    bytes: u64,
}

impl DeviceBatch {
    /// Devices whose rows have so many bytes, as far as is known.
    pub fn new(devices: Vec<PendingDevice>, share: Share, mean: Option<u64>) -> Self {
        let all = pages::rows_that_fit(mean);
        let first = mean
            .map_or(MAX_ROWS_PER_DEVICE, |_| all / u32::try_from(devices.len().max(1)).unwrap_or(u32::MAX))
            .clamp(1, MAX_ROWS_PER_DEVICE);
        Self { devices, current: 0, parted: Vec::new(), share, first, rows: 0, bytes: 0 }
    }

    /// Says how rows are read.
    pub fn set_mapping(&self, mapping: &Arc<Mapping>) {
        for out in self.devices.iter().filter_map(|member| member.out.as_ref()) {
            out.set_mapping(mapping);
        }
    }

    /// Bytes of a row, if there was one.
    pub fn mean(&self) -> Option<u64> {
        self.bytes.checked_div(self.rows)
    }

    pub fn devices(&self, mapping: &Mapping) -> SelectStatement {
        let thing = self.devices.first().map_or_else(Uuid::nil, |member| member.thing);
        select::devices(mapping, thing, self.devices.iter().map(|member| member.selection.device))
    }

    /// Tells each what was found of it; those of which nothing was found stay behind.
    pub fn found(&mut self, found: &[(Uuid, Device)]) {
        for member in &mut self.devices {
            // Two tasks may ask for the same device.
            let device = found.iter().find(|(id, _)| *id == member.selection.device).map(|(_, device)| device.clone());
            if device.is_none() {
                member.out = None;
            }
            member.reply(Ok(device));
        }
        self.devices.retain(|member| member.out.is_some());
    }

    /// The first rows of each that is left.
    pub fn query(&self, mapping: &Mapping) -> Option<SelectStatement> {
        let selections: Vec<&Selection> = self.devices.iter().map(|member| &member.selection).collect();
        select::first_rows(mapping, &selections, self.first)
    }

    /// Hands a row on.
    pub fn take(&mut self, number: i32, row: Row) {
        let Ok(number) = usize::try_from(number) else { return };
        if number != self.current {
            self.detach_current();
            self.current = number;
        }
        self.rows += 1;
        self.bytes += row.bytes() as u64;
        let Some(member) = self.devices.get_mut(number) else { return };
        let Some(out) = &mut member.out else { return };
        if member.rows == 0 {
            out.set_share(std::mem::replace(&mut self.share, Share::none()));
        }
        member.rows += 1;
        member.selection.after = Some(row.position());
        if !out.push(row) {
            self.share = out.take_share();
            member.out = None;
        }
    }

    fn detach_current(&mut self) {
        if let Some(member) = self.devices.get_mut(self.current).filter(|member| member.rows > 0 && member.out.is_some()) {
            let (parted, share) = member.detach(self.first);
            self.parted.extend(parted);
            self.share = share;
        }
    }

    /// What is to be done yet about each: devices with more rows, and all whose end was not seen, after a failure or when
    /// there was no memory for all (`Ok(false)`).
    pub fn end(mut self, result: &Result<bool, SourceError>) -> Vec<Detached> {
        for member in &mut self.devices {
            match result {
                Ok(true) => self.parted.extend(member.detach(self.first).0),
                // It was not even looked up: its job ends with this.
                Err(error) if member.device.is_some() => member.reply(Err(error.clone())),
                // Rows that came are good; the rest comes, or fails, on its own account.
                Ok(false) | Err(_) => {
                    if let Some(mut out) = member.out.take() {
                        drop(out.take_share());
                        self.parted.push(Detached { selection: member.selection.clone(), out, is_read: false });
                    }
                }
            }
        }
        self.parted
    }
}

impl Source {
    /// Puts a device into the queue of those that are opened together.
    pub(in crate::source) fn open_in_batch(
        &self,
        server: &Server,
        thing: Uuid,
        selection: Selection,
        found: oneshot::Sender<Found>,
        out: RowSender,
    ) {
        let (source, server) = (self.clone(), server.clone());
        server.batch_queue.push(PendingDevice { thing, selection, device: Some(found), out: Some(out), rows: 0 });
        tokio::spawn(async move { source.run_next_batch(&server).await });
    }

    /// Begins the devices that wait, as many as go together; or none, when others have taken them along.
    async fn run_next_batch(&self, server: &Server) {
        // Those that are opened at the same time get there first, and go along.
        tokio::task::yield_now().await;
        if server.batch_queue.is_empty() {
            return;
        }
        let share = self.budget.reserve(pages::PAGE_BYTES).await;
        let Ok(place) = self.pages.acquire().await else { return };
        let members = server.batch_queue.take();
        if !members.is_empty() {
            // Boxed: of many devices that are opened together one comes this far.
            Box::pin(self.read_batch(server, place, share, members)).await;
        }
    }

    /// Reads devices together, and sends on those that have more.
    async fn read_batch(&self, server: &Server, place: SemaphorePermit<'_>, share: Share, members: Vec<PendingDevice>) {
        let mut convoy = DeviceBatch::new(members, share, self.mean_row_bytes());
        let read = async {
            let mapping = self.mapping().await?;
            convoy.set_mapping(&mapping);
            let read = batch(server, &mapping, &mut convoy, self.timeouts()).await;
            if let Err(SourceError::Changed(_) | SourceError::Rejected(_)) = &read {
                self.refresh_mapping(&mapping).await?;
            }
            read
        };
        let result = read.await;
        drop(place);
        if let Err(error) = &result {
            tracing::warn!(%error, "devices could not be begun together; each is read by itself now");
        }
        self.record_mean_row_bytes(convoy.mean());
        for parted in convoy.end(&result) {
            let store = self.clone();
            tokio::spawn(async move { store.read(parted.selection, parted.out, parted.is_read).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_device_that_two_tasks_ask_for_is_found_for_both() {
        let (thing, device, other) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let mut told = Vec::new();
        let members = [device, device, other].map(|device| {
            let (found, hears) = oneshot::channel();
            told.push(hears);
            let selection = Selection { device, from: DateTime::UNIX_EPOCH, to: DateTime::UNIX_EPOCH, after: None };
            PendingDevice { thing, selection, device: Some(found), out: Some(RowSender::new(None).0), rows: 0 }
        });
        let mut convoy = DeviceBatch::new(members.into(), Share::none(), None);
        convoy.found(&[(device, Device { name: Some("水".to_owned()) })]);
        let mut found = Vec::new();
        for hears in told {
            found.push(hears.await.unwrap().unwrap().is_some());
        }
        assert_eq!(found, [true, true, false]);
        assert_eq!(convoy.devices.len(), 2);
    }
}
