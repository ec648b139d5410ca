//! The errors of the HTTP client.

use data_patch_protocol::http::Problem;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL or the token cannot be used. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The service does not answer, or answers that it cannot serve requests now.
    #[error("{url} is not reachable: {reason}")]
    Unreachable { url: String, reason: String },
    /// The service refused the request and did nothing.
    #[error("refused ({}): {}", .0.code, .0.detail)]
    Refused(Box<Problem>),
    /// The answer is not one of this API: something else listens at this URL, or its version differs.
    #[error("{url} does not answer as data-patch does: {reason}")]
    Protocol { url: String, reason: String },
}

impl HttpError {
    /// Whether another attempt may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
