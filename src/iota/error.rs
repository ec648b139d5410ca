//! What can be wrong with the store, and whether waiting helps.

use uuid::Uuid;

/// Why rows could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store is away; it will come back.
    #[error("the IoTA store is away: {0}")]
    Away(String),
    /// The store answers, and says no; waiting does not help.
    #[error("the IoTA store refuses: {0}")]
    Refused(String),
    /// Tables or columns are not what the configuration says.
    #[error("the IoTA store does not fit the configuration: {0}")]
    Mapping(String),
    /// Rows that can't be told apart from others.
    #[error(
        "{rows} rows of device {device} in the range have no row key; they could be lost at a page's edge. Give them one, or name another column in iota.raw.id"
    )]
    NoKey { device: Uuid, rows: u64 },
}

impl StoreError {
    /// Whether trying again later is right.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Away(_))
    }

    pub(super) fn timeout(doing: &str, seconds: u64) -> Self {
        Self::Away(format!("{doing} took longer than {seconds} s"))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        let sqlx::Error::Database(database) = &error else {
            return match error {
                sqlx::Error::Configuration(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Self::Refused(text),
                sqlx::Error::PoolTimedOut => Self::Away(
                    "no connection within iota.timeout_seconds: it does not answer, or its connections are all taken".to_owned(),
                ),
                _ => Self::Away(text),
            };
        };
        let code = database.code().unwrap_or_default();
        if database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
            // SQLSTATE classes: 42 names or rights, 22 data, 0A not supported, 3F schema. A password (28) can be set right.
            let refused = ["42", "22", "0A", "3F"].iter().any(|class| code.starts_with(class));
            return if refused {
                Self::Refused(format!("{text} (SQLSTATE {code})"))
            } else {
                Self::Away(format!("{text} (SQLSTATE {code})"))
            };
        }
        // SQLite: 1 is an error in the statement (a table or column is missing), 11 and 26 a damaged file, 20 a wrong type.
        match code.parse::<u32>().map(|code| code & 0xff) {
            Ok(1 | 11 | 20 | 26) => Self::Refused(text),
            _ => Self::Away(text),
        }
    }
}
