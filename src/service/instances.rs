//! The instances on the queue.

use chrono::DateTime;
use uuid::Uuid;

use super::{Caller, TaskService, unavailable};
use crate::{
    protocol::{RequestError, Role, http::InstanceView},
    queue::InstanceRow,
};

impl TaskService {
    /// The instances on the queue: those that are alive, or have jobs.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn instances(&self) -> Result<Vec<InstanceView>, RequestError> {
        Ok(self.queue.instances().await.map_err(unavailable)?.into_iter().map(view).collect())
    }

    /// Asks an instance to hand its jobs back and to take no others, or to go on.
    ///
    /// # Errors
    /// The caller is no operator, there is no such instance, or the queue cannot be written.
    pub async fn drain(&self, caller: &Caller, instance: Uuid, drains: bool) -> Result<InstanceView, RequestError> {
        caller.require(Role::Operator, "drain instances")?;
        let id = instance.to_string();
        let exists = self.queue.drain_instance(&id, drains).await.map_err(unavailable)?;
        let found = self.instances().await?.into_iter().find(|found| exists && found.instance == id);
        let Caller { token, address, .. } = caller;
        tracing::info!(%instance, drains, token = &**token, %address, "an instance is asked to hand its jobs back, or to go on");
        found.ok_or(RequestError::UnknownInstance(instance))
    }
}

fn view(row: InstanceRow) -> InstanceView {
    let InstanceRow { id, process, is_draining, running, tasks } = row;
    let process = process.as_ref();
    InstanceView {
        instance: id,
        host: process.map(|process| process.host.clone()),
        pid: process.map(|process| process.pid),
        version: process.map(|process| process.version.clone()),
        started_at: process.and_then(|process| DateTime::from_timestamp_millis(process.started_at_ms)),
        silent_ms: process.map(|process| process.silent_ms),
        draining: is_draining,
        jobs: running,
        tasks,
    }
}
