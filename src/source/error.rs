//! Errors of the source, and whether a retry helps.

use uuid::Uuid;

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

/// Start of the message that the check in each query raises (`select::layout_check`).
pub(super) const LAYOUT_CHANGED: &str = "data-patch: layout";

impl From<sqlx::Error> for SourceError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error;
        let text = error.to_string();
        match &error {
            Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                if database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
                    if code == "22P02" && database.message().contains(LAYOUT_CHANGED) {
                        return Self::Changed("a table was rewritten, or the type of a column has changed".to_owned());
                    }
                    return from_sqlstate(&code, format!("{text} (SQLSTATE {code})"));
                }
                from_sqlite_code(&code, text)
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

/// Classifies an error by its SQLSTATE (PostgreSQL's documentation, appendix A).
fn from_sqlstate(code: &str, text: String) -> SourceError {
    match code {
        // A statement or row that is too large, and a damaged table or index (XX001, XX002):
        // permanent.
        "54000" | "54001" | "54011" | "54023" | "XX001" | "XX002" => SourceError::Rejected(text),
        // A password can be corrected, and a database can be created later: 28, 3D. A session that
        // the server ended, a lock timeout, a deadlock, a conflict on a standby: 25P03, 40, 55, 57.
        // Resources and the system: 53, 58. The connection: 08.
        "25P03" => SourceError::Unavailable(text),
        _ => match code.get(..2).unwrap_or_default() {
            "08" | "28" | "3D" | "40" | "53" | "55" | "57" | "58" => SourceError::Unavailable(text),
            // Unsupported features, data errors, privileges, names and schemas, and errors that a
            // read-only client does not cause by chance.
            "0A" | "0L" | "0P" | "21" | "22" | "23" | "2F" | "34" | "38" | "39" | "3F" | "42" | "44" | "P0" => {
                SourceError::Rejected(text)
            }
            _ => SourceError::Unknown(text),
        },
    }
}

/// Classifies an error by SQLite's primary result code.
fn from_sqlite_code(code: &str, text: String) -> SourceError {
    match code.parse::<u32>().map(|code| code & 0xff) {
        // A missing table or column, a damaged file, a wrong type, a file that is not a database;
        // too large; permissions; misuse of the API.
        Ok(1 | 3 | 11 | 18 | 20 | 21 | 23 | 25 | 26) => SourceError::Rejected(text),
        // Busy, locked, out of memory, interrupted, disk error, disk full, file cannot be opened,
        // locking protocol, schema changed.
        Ok(5..=7 | 9 | 10 | 13..=15 | 17) => SourceError::Unavailable(text),
        _ => SourceError::Unknown(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_classified_and_unknown_codes_are_retried_as_unknown() {
        for (code, retryable, unknown) in [
            ("57P03", true, false),
            ("53300", true, false),
            ("42P01", false, false),
            ("22P02", false, false),
            ("XX001", false, false),
            ("XX000", true, true),
            ("F0000", true, true),
            ("99999", true, true),
            ("", true, true),
        ] {
            let error = from_sqlstate(code, String::new());
            assert_eq!((error.is_retryable(), matches!(error, SourceError::Unknown(_))), (retryable, unknown), "{code}");
        }
        for (code, retryable, unknown) in [
            ("5", true, false),
            ("14", true, false),
            ("266", true, false),
            ("1", false, false),
            ("267", false, false),
            ("99", true, true),
        ] {
            let error = from_sqlite_code(code, String::new());
            assert_eq!((error.is_retryable(), matches!(error, SourceError::Unknown(_))), (retryable, unknown), "{code}");
        }
    }

    #[test]
    fn driver_errors_are_classified() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(matches!(SourceError::from(sqlx::Error::Io(refused)), SourceError::Unavailable(_)));
        assert!(matches!(SourceError::from(sqlx::Error::Protocol("?".to_owned())), SourceError::Unknown(_)));
        assert!(matches!(SourceError::from(sqlx::Error::ColumnNotFound("name".to_owned())), SourceError::Rejected(_)));
    }
}
