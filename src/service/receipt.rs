//! What a task has published: for each device the counts, where in the topic its rows are, and a
//! checksum of them.

use super::{TaskService, unavailable};
use crate::{
    protocol::{
        RequestError,
        http::{DeviceReceipt, PartitionRange, Receipt, RowPosition},
        time::show_micros,
    },
    queue::JobRow,
    task::{PartitionOffsets, RowId, TaskId},
};

impl TaskService {
    /// The receipt of a task: so far, until the task is finished.
    ///
    /// # Errors
    /// There is no such task, or the queue cannot be read.
    pub async fn receipt(&self, id: TaskId) -> Result<Receipt, RequestError> {
        // Read first: if the task is finished by then, so are its jobs.
        let task = self.show(id).await?;
        let jobs = self.queue.jobs(id, &[], None, u32::MAX).await.map_err(unavailable)?;
        let is_final = task.state.is_final();
        Ok(Receipt { task, is_final, devices: jobs.into_iter().map(device_receipt).collect() })
    }
}

fn device_receipt(job: JobRow) -> DeviceReceipt {
    let JobRow { device, name, state, total, published, quarantined, delivered, .. } = job;
    let row = |RowId { instant_us, key }: RowId| RowPosition { time: show_micros(instant_us), key: key.to_string() };
    let range = |PartitionOffsets { partition, first, last }: PartitionOffsets| PartitionRange {
        partition,
        first_offset: first,
        last_offset: last,
    };
    DeviceReceipt {
        device_id: device,
        name,
        state,
        counted: total,
        published,
        quarantined,
        repeated: delivered.repeated,
        repeated_is_exact: !delivered.lost_worker,
        first_row: delivered.first.map(row),
        last_row: delivered.last.map(row),
        partitions: delivered.partitions.into_iter().map(range).collect(),
        unlocated: delivered.unlocated,
        checksum: (delivered.rows == published).then(|| delivered.checksum.to_string()),
    }
}
