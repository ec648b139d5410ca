//! What can be wrong with the store, and whether waiting helps.

use uuid::Uuid;

/// Why rows could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// The store is away; it will come back.
    #[error("the IoTA store is away: {0}")]
    Unavailable(String),
    /// The store answers, and says no; waiting does not help.
    #[error("the IoTA store refuses: {0}")]
    Rejected(String),
    /// Nobody knows whether waiting helps: try again, but not for ever.
    #[error("the IoTA store gave an error that is not known: {0}")]
    Unknown(String),
    /// Tables or columns are not what the configuration says.
    #[error("the IoTA store does not fit the configuration: {0}")]
    Mapping(String),
    /// Columns are of other types than when the reading began. Whoever begins anew reads them right.
    #[error("the tables of the IoTA store were changed meanwhile: {0}")]
    Changed(String),
    /// A statement was ended since others waited for its locks.
    #[error("the reading gave way to others who waited for a lock on the IoTA store's tables")]
    GaveWay,
    /// Rows that can't be told apart from others.
    #[error(
        "{rows} rows of device {device} in the range have no row key; they could be lost at a page's edge. Give them one, or name another column in iota.raw.id"
    )]
    MissingRowKey { device: Uuid, rows: u64 },
}

impl SourceError {
    /// Whether nobody knows if trying again helps.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Whether trying again later is right. For [`Unknown`](Self::Unknown) it is, a few times.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Unknown(_) | Self::Changed(_) | Self::GaveWay => true,
            Self::Rejected(_) | Self::Mapping(_) | Self::MissingRowKey { .. } => false,
        }
    }

    /// A word for its kind, for metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "away",
            Self::Rejected(_) => "refused",
            Self::Unknown(_) => "unknown",
            Self::Mapping(_) => "mapping",
            Self::Changed(_) => "changed",
            Self::GaveWay => "gave_way",
            Self::MissingRowKey { .. } => "no_row_key",
        }
    }

    pub(super) fn timeout(doing: &str, seconds: u64) -> Self {
        Self::Unavailable(format!("{doing} took longer than {seconds} s"))
    }
}

/// A message that starts so comes from the check which is part of each query (`select::layout_check`).
pub(super) const CHANGED: &str = "data-patch: layout";

impl From<sqlx::Error> for SourceError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error;
        let text = error.to_string();
        match &error {
            Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                if database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
                    if code == "22P02" && database.message().contains(CHANGED) {
                        return Self::Changed("a table was rewritten, or a column is of another type".to_owned());
                    }
                    return of_postgres(&code, format!("{text} (SQLSTATE {code})"));
                }
                of_sqlite(&code, text)
            }
            // The network, and a pool that has none of its connections free.
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
            // TLS and the protocol: a certificate can be wrong for good, or a server in the middle of its start.
            _ => Self::Unknown(text),
        }
    }
}

/// By the class of the SQLSTATE (PostgreSQL's documentation, appendix A).
fn of_postgres(code: &str, text: String) -> SourceError {
    match code {
        // Too large a statement or row, which stay so; a setting that a pooler or server does not have.
        // A damaged table or index (XX001, XX002) does not mend itself.
        "54000" | "54001" | "54011" | "54023" | "XX001" | "XX002" => SourceError::Rejected(text),
        // A password can be set right, and the database of a standby be created a moment later: 28, 3D. An idle or
        // running session ended by the server, a lock not had in time, a deadlock, a standby's conflict: 25P03, 40, 55, 57.
        // Resources, the system itself: 53, 58. The connection: 08.
        "25P03" => SourceError::Unavailable(text),
        _ => match code.get(..2).unwrap_or_default() {
            "08" | "28" | "3D" | "40" | "53" | "55" | "57" | "58" => SourceError::Unavailable(text),
            // Not supported, data, rights and names, schemas, and what a reader can't be guilty of by chance.
            "0A" | "0L" | "0P" | "21" | "22" | "23" | "2F" | "34" | "38" | "39" | "3F" | "42" | "44" | "P0" => {
                SourceError::Rejected(text)
            }
            _ => SourceError::Unknown(text),
        },
    }
}

/// By SQLite's primary result code.
fn of_sqlite(code: &str, text: String) -> SourceError {
    match code.parse::<u32>().map(|code| code & 0xff) {
        // A missing table or column, a damaged file, a wrong type, a file that is no database; too large; rights; a misuse.
        Ok(1 | 3 | 11 | 18 | 20 | 21 | 23 | 25 | 26) => SourceError::Rejected(text),
        // Busy, locked, no memory, interrupted, the disk, full, can't be opened, the protocol of its locks, its schema was
        // just changed, no support for large files on this system.
        Ok(5..=7 | 9 | 10 | 13..=15 | 17) => SourceError::Unavailable(text),
        _ => SourceError::Unknown(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_neither_away_nor_refused() {
        for (code, outage, unknown) in [
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
            let error = of_postgres(code, String::new());
            assert_eq!((error.is_retryable(), matches!(error, SourceError::Unknown(_))), (outage, unknown), "{code}");
        }
        for (code, outage, unknown) in [
            ("5", true, false),
            ("14", true, false),
            ("266", true, false),
            ("1", false, false),
            ("267", false, false),
            ("99", true, true),
        ] {
            let error = of_sqlite(code, String::new());
            assert_eq!((error.is_retryable(), matches!(error, SourceError::Unknown(_))), (outage, unknown), "{code}");
        }
    }

    #[test]
    fn errors_of_the_driver_are_told_apart() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(matches!(SourceError::from(sqlx::Error::Io(refused)), SourceError::Unavailable(_)));
        assert!(matches!(SourceError::from(sqlx::Error::Protocol("?".to_owned())), SourceError::Unknown(_)));
        assert!(matches!(SourceError::from(sqlx::Error::ColumnNotFound("name".to_owned())), SourceError::Rejected(_)));
    }
}
