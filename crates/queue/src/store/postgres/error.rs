//! Which errors of PostgreSQL are outages, and which may go away by trying again.

use std::{borrow::Cow, sync::Arc, time::Duration};

use sqlx::{Error, error::DatabaseError};

use crate::QueueError;

/// A server that answers nothing for so long is taken for one that is away.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The queue has no answer, because the server gave none in time.
#[derive(Debug, thiserror::Error)]
#[error("PostgreSQL has not answered within {} s", .0.as_secs())]
struct NoAnswer(Duration);

/// Waits for an answer of the server, but not for ever.
pub async fn answered<T>(work: impl Future<Output = sqlx::Result<T>> + Send) -> Result<T, Failure> {
    answered_within(ANSWER_TIMEOUT, work).await
}

/// As [`answered`], with another limit of time.
pub async fn answered_within<T>(limit: Duration, work: impl Future<Output = sqlx::Result<T>> + Send) -> Result<T, Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure { error: QueueError::Unavailable(Arc::new(NoAnswer(limit))), remedy: Remedy::Wait }),
    }
}

/// Why a transaction failed, and what may help.
#[derive(Debug)]
pub struct Failure {
    pub error: QueueError,
    pub remedy: Remedy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing was changed, and the same may succeed at once: two transactions waited for each other.
    Repeat,
    /// One of the changes cannot be made; the others can, without it.
    Separate,
    /// The server has to come back.
    Wait,
}

impl From<Failure> for QueueError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = error.as_database_error().and_then(DatabaseError::code).map(Cow::into_owned);
        // Classes are documented at <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
        let (kind, remedy): (fn(_) -> _, _) = match code.as_deref() {
            // serialization_failure, deadlock_detected
            Some("40001" | "40P01") => (QueueError::Unavailable as fn(_) -> _, Remedy::Repeat),
            Some(code) => match code.get(..2).unwrap_or_default() {
                // Connections, resources, intervention by an operator, the system, and a server
                // that is a standby.
                "08" | "53" | "57" | "58" | "25" | "28" | "3D" => (QueueError::Unavailable, Remedy::Wait),
                // No such table or column, no right to it, damaged pages.
                "42" | "XX" => (QueueError::Damaged, Remedy::Wait),
                _ => (QueueError::Unknown, Remedy::Separate),
            },
            None => match &error {
                Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed => {
                    (QueueError::Unavailable, Remedy::Wait)
                }
                Error::ColumnDecode { .. } | Error::Decode(_) | Error::RowNotFound | Error::ColumnNotFound(_) => {
                    (QueueError::Damaged, Remedy::Separate)
                }
                _ => (QueueError::Unknown, Remedy::Separate),
            },
        };
        Self { error: kind(Arc::new(error)), remedy }
    }
}
