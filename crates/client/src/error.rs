//! The errors of the client.

use tokio_tungstenite::tungstenite;

/// Why a call failed. The client can still be used: watched tasks continue after the last received
/// entry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection, and all attempts to open one have failed.
    #[error("{url}: {source} ({attempts} attempts)")]
    Connection { url: String, attempts: u32, source: ConnectionError },
    /// The service refused the request and did nothing. The codes are those of
    /// [`data_patch_protocol::RequestError::code`].
    #[error("refused ({code}): {text}")]
    Refused { code: String, text: String },
    /// The service sent an invalid or unexpected message.
    #[error("the service violates the protocol: {0}")]
    Protocol(String),
}

impl Error {
    /// The code of a refusal.
    ///
    /// ```
    /// # use data_patch_client::Error;
    /// let refused = Error::Refused { code: "wrong_token".to_owned(), text: "token is wrong".to_owned() };
    /// assert_eq!(refused.code(), Some("wrong_token"));
    /// ```
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            Self::Connection { .. } | Self::Protocol(_) => None,
        }
    }
}

/// Why a connection failed or was lost.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("{0}")]
    Socket(#[from] Box<tungstenite::Error>),
    /// The service closed it, with a code of RFC 6455, section 7.4.
    #[error("the service closed the connection with code {code}: {reason}")]
    Closed { code: u16, reason: String },
    #[error("the connection ended")]
    Ended,
    #[error("the service did not answer in time")]
    TimedOut,
    /// The service answers, and temporarily accepts no requests.
    #[error("the service is not ready ({code}): {text}")]
    NotReady { code: String, text: String },
}

impl From<tungstenite::Error> for ConnectionError {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => Self::Ended,
            error => Self::Socket(Box::new(error)),
        }
    }
}

impl ConnectionError {
    /// Whether another attempt may succeed.
    pub(crate) fn is_retryable(&self) -> bool {
        use tungstenite::Error as E;
        match self {
            Self::Ended | Self::TimedOut | Self::NotReady { .. } => true,
            // Protocol error, unsupported data, invalid UTF-8, message too large: permanent.
            Self::Closed { code, .. } => !matches!(code, 1002 | 1003 | 1007 | 1009),
            Self::Socket(error) => match error.as_ref() {
                // A proxy whose service restarts, or that limits the rate of requests.
                E::Http(answer) => answer.status().is_server_error() || answer.status().as_u16() == 429,
                E::Url(_) | E::HttpFormat(_) | E::Tls(_) | E::Capacity(_) | E::Utf8(_) => false,
                _ => true,
            },
        }
    }
}

/// Why one attempt failed.
pub(crate) enum Failure {
    /// Retried if [`is_retryable`](ConnectionError::is_retryable).
    Connection(ConnectionError),
    Final(Error),
}

impl<E: Into<ConnectionError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Connection(error.into())
    }
}
