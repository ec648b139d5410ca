//! The queue's own interface, on a clock that is moved by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::TimeZone;
use data_patch::{
    queue::{Checkpoint, Clock, DeviceCount, Lease, Queue, Submitted},
    task::{NewTask, Position, Progress, TaskId, TaskState},
};
use tempfile::TempDir;
use uuid::Uuid;

use super::open_queue;

pub const MAX_CRASHES: u32 = 2;
pub const LEASE: Duration = Duration::from_secs(10);

/// A queue of its own, and a clock that is moved by hand.
pub struct Bench {
    pub queue: Queue,
    pub now: Arc<AtomicI64>,
    pub owner: Arc<str>,
    pub folder: TempDir,
}

impl Bench {
    pub async fn new() -> Self {
        let (folder, now) = (tempfile::tempdir().unwrap(), Arc::new(AtomicI64::new(1_000_000)));
        let queue = open_queue(&folder, Clock::Manual(Arc::clone(&now))).await;
        Self { queue, now, owner: "one".into(), folder }
    }

    pub fn pass(&self, time: Duration) {
        self.now.fetch_add(time.as_millis() as i64, Ordering::SeqCst);
    }

    pub async fn submit(&self, devices: usize) -> TaskId {
        match self.queue.submit(task(devices, None)).await.unwrap() {
            Submitted::Created(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub async fn claim(&self, limit: usize) -> Vec<Lease> {
        self.queue.claim(&self.owner, move || limit, LEASE, MAX_CRASHES).await.unwrap().leases
    }

    pub async fn claim_one(&self) -> Lease {
        self.claim(1).await.pop().expect("nothing to claim")
    }

    pub async fn log(&self, task: TaskId) -> Vec<String> {
        let events = self.queue.log_after(task, 0, 10_000).await.unwrap();
        assert!(events.iter().zip(1..).all(|(event, seq)| event.seq == seq), "{events:?}");
        events.into_iter().map(|entry| entry.event.to_string()).collect()
    }

    pub async fn state(&self, task: TaskId) -> TaskState {
        self.queue.task(task).await.unwrap().unwrap().state
    }
}

pub fn task(devices: usize, request_id: Option<&str>) -> NewTask {
    let time = chrono::Utc.with_ymd_and_hms(2019, 1, 11, 0, 0, 0).unwrap();
    NewTask {
        thing: Uuid::new_v4(),
        devices: (0..devices).map(|_| Uuid::new_v4()).collect(),
        topic: "t".to_owned(),
        from: time,
        to: time,
        request_id: request_id.map(str::to_owned),
    }
}

pub fn progress(rows: u64) -> Checkpoint {
    let position = Position { time_us: rows.cast_signed(), key: rows.to_string().into() };
    Checkpoint { progress: Progress { position: Some(position), published: rows, quarantined: 0 }, ..Checkpoint::default() }
}

pub fn counted(name: Option<&str>, total: u64) -> Checkpoint {
    Checkpoint { counted: Some(DeviceCount { name: name.map(str::to_owned), total }), ..Checkpoint::default() }
}
