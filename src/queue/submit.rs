//! Taking a task in.

use super::{Queue, QueueError, TaskRow, sql, writer::Tx};
use crate::task::{NewTask, TaskId};

/// What became of a request.
#[derive(Debug, Clone)]
pub enum Submitted {
    Created(TaskId),
    /// There is a task of the same `request_id`.
    Existing(TaskRow),
}

impl Queue {
    /// Stores a task with its jobs; durable when this returns.
    ///
    /// # Errors
    /// The file can't be written; nothing was stored.
    pub async fn submit(&self, task: NewTask) -> Result<Submitted, QueueError> {
        let submitted = self.inner.writer.write(move |tx| Box::pin(submit(tx, task))).await?;
        self.inner.work.notify_one();
        Ok(submitted)
    }
}

async fn submit(tx: &mut Tx, task: NewTask) -> Result<Submitted, sqlx::Error> {
    /// Rows in one statement; SQLite takes 32,766 variables.
    const AT_ONCE: usize = 1_000;
    if let Some(request_id) = &task.request_id
        && let Some(row) = tx.fetch(&sql::task_of_request(request_id)).await?.first()
    {
        return Ok(Submitted::Existing(sql::read_task(row)?));
    }
    let id = TaskId::new();
    tx.execute(&sql::insert_task(id, &task, tx.now_ms)).await?;
    for (index, devices) in task.devices.chunks(AT_ONCE).enumerate() {
        tx.execute(&sql::insert_jobs(id, index * AT_ONCE, devices, tx.now_ms)).await?;
    }
    Ok(Submitted::Created(id))
}
