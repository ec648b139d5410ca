//! Classifies PostgreSQL's errors.

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use crate::source::SourceError;

/// Start of the message that the check in each query raises (`select::layout_check`).
pub(in crate::source) const LAYOUT_CHANGED: &str = "data-patch: layout";

/// Classifies an error of PostgreSQL. `None`: it is another database's.
pub(in crate::source) fn classify(error: &dyn DatabaseError, text: &str) -> Option<SourceError> {
    let error = error.try_downcast_ref::<PgDatabaseError>()?;
    let code = error.code();
    if code == "22P02" && error.message().contains(LAYOUT_CHANGED) {
        return Some(SourceError::Changed("a table was rewritten, or the type of a column has changed".to_owned()));
    }
    Some(from_sqlstate(code, format!("{text} (SQLSTATE {code})")))
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
    }
}
