//! Which errors of SQLite are outages, and which are damage.

use std::sync::Arc;

use rusqlite::{Error, ErrorCode as Code};

use crate::QueueError;

/// The queue's error for an error of SQLite.
pub fn queue_error(error: Error) -> QueueError {
    let kind = match &error {
        Error::SqliteFailure(failure, _) => match failure.code {
            Code::DatabaseBusy
            | Code::DatabaseLocked
            | Code::DiskFull
            | Code::SystemIoFailure
            | Code::ReadOnly
            | Code::CannotOpen
            | Code::OutOfMemory
            | Code::PermissionDenied
            | Code::FileLockingProtocolFailed
            | Code::OperationInterrupted
            | Code::OperationAborted => QueueError::Unavailable,
            Code::DatabaseCorrupt | Code::NotADatabase | Code::SchemaChanged | Code::TypeMismatch => QueueError::Damaged,
            _ => QueueError::Unknown,
        },
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::InvalidColumnName(_)
        | Error::Utf8Error(..)
        | Error::QueryReturnedNoRows => QueueError::Damaged,
        _ => QueueError::Unknown,
    };
    kind(Arc::new(error))
}
