//! Devices that wait to be opened together: for a small device, looking it up costs more than its
//! rows.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Device, RowSender, Selection, SourceError, rows::LookUpResult};

/// A device that waits to be looked up and read.
pub(super) struct PendingDevice {
    pub thing: Uuid,
    pub selection: Selection,
    /// Receives the result of the look-up; `None` once sent.
    pub reply_to: Option<oneshot::Sender<LookUpResult>>,
    /// Receives its rows; `None` once they are complete.
    pub sender: Option<RowSender>,
}

impl PendingDevice {
    fn group_key(&self) -> (Uuid, DateTime<Utc>, DateTime<Utc>) {
        (self.thing, self.selection.from, self.selection.to)
    }

    pub fn reply(&mut self, result: LookUpResult) {
        if let Some(reply_to) = self.reply_to.take() {
            // The receiver may have been dropped.
            let _ = reply_to.send(result);
        }
    }

    /// Replies that the look-up has failed.
    pub fn fail(mut self, error: &SourceError) {
        self.reply(Err(error.clone()));
    }

    /// Replies with the device. Returns whether it exists.
    pub fn found(&mut self, device: Option<Device>) -> bool {
        let exists = device.is_some();
        self.reply(Ok(device));
        exists
    }
}

/// The devices that wait.
#[derive(Clone, Default)]
pub(super) struct PendingQueue(Arc<Mutex<Vec<PendingDevice>>>);

impl PendingQueue {
    pub fn push(&self, pending_device: PendingDevice) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(pending_device);
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Takes at most `max` devices of the same thing and range as the one that has waited longest.
    pub fn take(&self, max: usize) -> Vec<PendingDevice> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(group_key) = waiting.first().map(PendingDevice::group_key) else { return Vec::new() };
        let mut remaining = max;
        waiting
            .extract_if(.., |pending_device| {
                let is_taken = remaining > 0 && pending_device.group_key() == group_key;
                remaining -= usize::from(is_taken);
                is_taken
            })
            .collect()
    }
}
