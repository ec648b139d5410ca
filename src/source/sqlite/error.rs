//! Classifies SQLite's errors.

use sqlx::{error::DatabaseError, sqlite::SqliteError};

use crate::source::SourceError;

/// Classifies an error of SQLite. `None`: it is another database's.
pub(in crate::source) fn classify(error: &dyn DatabaseError, text: &str) -> Option<SourceError> {
    let error = error.try_downcast_ref::<SqliteError>()?;
    Some(from_result_code(&error.code().unwrap_or_default(), text.to_owned()))
}

/// Classifies an error by SQLite's primary result code.
fn from_result_code(code: &str, text: String) -> SourceError {
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
            ("5", true, false),
            ("14", true, false),
            ("266", true, false),
            ("1", false, false),
            ("267", false, false),
            ("99", true, true),
        ] {
            let error = from_result_code(code, String::new());
            assert_eq!((error.is_retryable(), matches!(error, SourceError::Unknown(_))), (retryable, unknown), "{code}");
        }
    }
}
