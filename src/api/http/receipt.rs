//! What a task has published, and whether the topic still has it.

use warp::{http::StatusCode, reply::Response};

use super::{
    ApiError, Call,
    csv::{Csv, optional, quoted},
    json,
};
use crate::{
    protocol::http::{DeviceReceipt, PartitionRange},
    task::TaskId,
};

impl Call<'_> {
    /// `GET /tasks/{id}/receipt`
    pub async fn receipt(&self, id: TaskId) -> Result<Response, ApiError> {
        self.query.check(&[])?;
        let receipt = self.state.tasks.receipt(id).await?;
        Ok(if self.accepts("text/csv") { csv(&receipt.devices) } else { json(StatusCode::OK, &receipt) })
    }

    /// `POST /tasks/{id}/verify`
    pub async fn verify(&self, id: TaskId) -> Result<Response, ApiError> {
        self.query.check(&[])?;
        let verification = self.state.tasks.verification(id).await?;
        Ok(self.json_lines(|lines| verification.run(lines)))
    }
}

fn csv(devices: &[DeviceReceipt]) -> Response {
    let mut csv = Csv::new(&[
        "deviceId",
        "name",
        "state",
        "counted",
        "published",
        "quarantined",
        "repeated",
        "repeatedIsExact",
        "firstTime",
        "firstKey",
        "lastTime",
        "lastKey",
        "partitions",
        "unlocated",
        "checksum",
    ]);
    for device in devices {
        let (first, last) = (device.first_row.as_ref(), device.last_row.as_ref());
        let key = |key: Option<&str>| key.map(quoted).unwrap_or_default();
        csv.row(&[
            &device.device_id,
            &quoted(device.name.as_deref().unwrap_or_default()),
            &device.state.as_str(),
            &optional(device.counted),
            &device.published,
            &device.quarantined,
            &device.repeated,
            &device.repeated_is_exact,
            &optional(first.map(|row| &row.time)),
            &key(first.map(|row| &*row.key)),
            &optional(last.map(|row| &row.time)),
            &key(last.map(|row| &*row.key)),
            &ranges(&device.partitions),
            &device.unlocated,
            &optional(device.checksum.as_ref()),
        ]);
    }
    csv.response()
}

/// `partition:first-last`, separated by spaces.
fn ranges(partitions: &[PartitionRange]) -> String {
    let range = |range: &PartitionRange| format!("{}:{}-{}", range.partition, range.first_offset, range.last_offset);
    partitions.iter().map(range).collect::<Vec<_>>().join(" ")
}
