//! Errors of the source, and whether a retry helps.

use uuid::Uuid;

use super::{postgres, sqlite};

/// Why rows could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// The source is unavailable; a later retry can succeed.
    #[error("the IoTA source is unavailable: {0}")]
    Unavailable(String),
    /// The source rejects the query; a retry does not help.
    #[error("the IoTA source rejects the query: {0}")]
    Rejected(String),
    /// Not known whether a retry helps: retried a limited number of times.
    #[error("the IoTA source returned an unknown error: {0}")]
    Unknown(String),
    /// Tables or columns do not match the configuration.
    #[error("the IoTA source does not fit the configuration: {0}")]
    Mapping(String),
    /// The types of columns have changed since reading began. A new attempt reads them correctly.
    #[error("the tables of the IoTA source were changed during the read: {0}")]
    Changed(String),
    /// A statement was cancelled because other sessions waited for its locks.
    #[error("a read was cancelled because other sessions waited for a lock on the IoTA source's tables")]
    Yielded,
    /// Rows that cannot be distinguished from others.
    #[error(
        "{rows} rows of device {device} in the range have no row key; they could be lost at a page boundary. Give them one, or name another column in iota.raw.id"
    )]
    MissingRowKey { device: Uuid, rows: u64 },
}

impl SourceError {
    /// Whether the error is unknown, so that a retry may not help.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Whether a later retry can succeed. For [`Unknown`](Self::Unknown) only a few are made.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Unknown(_) | Self::Changed(_) | Self::Yielded => true,
            Self::Rejected(_) | Self::Mapping(_) | Self::MissingRowKey { .. } => false,
        }
    }

    /// The `cause` label in metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Rejected(_) => "rejected",
            Self::Unknown(_) => "unknown",
            Self::Mapping(_) => "mapping",
            Self::Changed(_) => "changed",
            Self::Yielded => "yielded",
            Self::MissingRowKey { .. } => "missing_row_key",
        }
    }

    pub(super) fn timeout(what: &str, seconds: u64) -> Self {
        Self::Unavailable(format!("{what} took longer than {seconds} s"))
    }
}

impl From<sqlx::Error> for SourceError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error;
        let text = error.to_string();
        match &error {
            Error::Database(database) => {
                let database = database.as_ref();
                // An error of another driver is not classified.
                postgres::error::classify(database, &text)
                    .or_else(|| sqlite::error::classify(database, &text))
                    .unwrap_or(Self::Unknown(text))
            }
            // The network, or a pool without a free connection.
            Error::Io(_) | Error::PoolTimedOut | Error::PoolClosed | Error::WorkerCrashed => Self::Unavailable(text),
            Error::Configuration(_)
            | Error::ConfigFile(_)
            | Error::InvalidArgument(_)
            | Error::RowNotFound
            | Error::TypeNotFound { .. }
            | Error::ColumnIndexOutOfBounds { .. }
            | Error::ColumnNotFound(_)
            | Error::ColumnDecode { .. }
            | Error::Encode(_)
            | Error::Decode(_)
            | Error::AnyDriverError(_)
            | Error::Migrate(_)
            | Error::InvalidSavePointStatement
            | Error::BeginFailed => Self::Rejected(text),
            // TLS and the protocol: either a wrong certificate, which stays wrong, or a server that
            // is starting.
            _ => Self::Unknown(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_errors_are_classified() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(matches!(SourceError::from(sqlx::Error::Io(refused)), SourceError::Unavailable(_)));
        assert!(matches!(SourceError::from(sqlx::Error::Protocol("?".to_owned())), SourceError::Unknown(_)));
        assert!(matches!(SourceError::from(sqlx::Error::ColumnNotFound("name".to_owned())), SourceError::Rejected(_)));
    }
}
