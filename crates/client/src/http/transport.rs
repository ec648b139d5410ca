//! Requests and answers over HTTP.

use std::{error::Error as _, time::Duration};

use data_patch_protocol::http::{PREFIX, Problem};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::de::DeserializeOwned;

use super::HttpError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout of the answer's head, and of its body.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest answer. A page of 500 tasks or rows is far below.
const MAX_BODY_BYTES: usize = 64 << 20;
/// How often a repeatable request is sent if the connection is lost before the answer.
const MAX_ATTEMPTS: u32 = 3;

/// Where the service is, and what every request carries.
#[derive(Clone)]
pub(super) struct Transport {
    pool: Pool,
    /// The URL of the service without a path's last `/`.
    pub url: String,
    authorization: HeaderValue,
    pub language: HeaderValue,
}

#[derive(Clone)]
enum Pool {
    Plain(Client<HttpConnector, Full<Bytes>>),
    /// Needs the certificates of the system, which a small image may lack.
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

/// A request that can be sent more than once.
pub(super) struct Call {
    pub method: Method,
    /// Path and query after the prefix.
    pub path: String,
    pub accept: &'static str,
    pub body: Option<String>,
    pub last_event_id: Option<u64>,
    /// Sent again if the connection is lost before the answer: twice has the effect of once.
    pub is_repeatable: bool,
}

impl Call {
    pub fn new(method: Method, path: String) -> Self {
        Self { method, path, accept: "application/json", body: None, last_event_id: None, is_repeatable: true }
    }
}

impl Transport {
    pub fn new(url: &str, token: &str) -> Result<Self, HttpError> {
        let url = url.trim_end_matches('/').to_owned();
        let invalid = |reason: &str| HttpError::Invalid(format!("{url:?} {reason}; a URL is like http://127.0.0.1:18010"));
        let parsed: Uri = url.parse().map_err(|_| invalid("is no URL"))?;
        if parsed.authority().is_none() || parsed.query().is_some() {
            return Err(invalid("is not the URL of a service"));
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let pool = match parsed.scheme_str() {
            Some("http") => Pool::Plain(Client::builder(TokioExecutor::new()).build(connector)),
            Some("https") => {
                connector.enforce_http(false);
                let builder = HttpsConnectorBuilder::new()
                    .with_native_roots()
                    .map_err(|error| HttpError::Invalid(format!("the certificates of the system cannot be read: {error}")))?;
                Pool::Tls(
                    Client::builder(TokioExecutor::new()).build(builder.https_only().enable_http1().wrap_connector(connector)),
                )
            }
            _ => return Err(invalid("has neither http nor https")),
        };
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| HttpError::Invalid("the token has characters that no token has".to_owned()))?;
        authorization.set_sensitive(true);
        Ok(Self { pool, url, authorization, language: HeaderValue::from_static("en") })
    }

    /// Sends a request, and reads the answer as JSON.
    pub async fn json<T: DeserializeOwned>(&self, call: &Call) -> Result<T, HttpError> {
        let mut attempt = 1;
        loop {
            let answer = async { self.body(self.send(call).await?).await };
            match answer.await {
                Ok(bytes) => return serde_json::from_slice(&bytes).map_err(|error| self.protocol(error.to_string())),
                Err(failed) => failed.or_repeat(call, &mut attempt)?,
            }
        }
    }

    /// Sends a request whose answer is read as it arrives.
    pub async fn open(&self, call: &Call) -> Result<Incoming, HttpError> {
        let mut attempt = 1;
        loop {
            match self.send(call).await {
                Ok(response) => return Ok(response.into_body()),
                Err(failed) => failed.or_repeat(call, &mut attempt)?,
            }
        }
    }

    /// Sends a request; an answer other than success is an error.
    pub async fn send(&self, call: &Call) -> Result<Response<Incoming>, Failed> {
        let request = self.request(call)?;
        let response = match &self.pool {
            Pool::Plain(client) => client.request(request),
            Pool::Tls(client) => client.request(request),
        };
        let response = match tokio::time::timeout(ANSWER_TIMEOUT, response).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() => return Err(Failed::Final(self.unreachable(cause(&error)))),
            Ok(Err(error)) => return Err(Failed::Lost(self.unreachable(cause(&error)))),
            Err(_) => return Err(Failed::Final(self.unreachable("it did not answer in time".to_owned()))),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.body(response).await?;
        Err(Failed::Final(self.refusal(status, &bytes)))
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, Failed> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{PREFIX}{}", self.url, call.path))
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::ACCEPT, call.accept)
            .header(header::ACCEPT_LANGUAGE, self.language.clone());
        if let Some(id) = call.last_event_id {
            request = request.header("last-event-id", id);
        }
        if call.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = call.body.clone().unwrap_or_default();
        request.body(Full::from(body)).map_err(|error| Failed::Final(HttpError::Invalid(error.to_string())))
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, Failed> {
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect();
        match tokio::time::timeout(ANSWER_TIMEOUT, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(Failed::Lost(self.unreachable(error.to_string()))),
            Err(_) => Err(Failed::Final(self.unreachable("its answer did not end in time".to_owned()))),
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> HttpError {
        let problem: Option<Problem> = serde_json::from_slice(body).ok();
        let is_temporary = matches!(status.as_u16(), 429 | 502..=504);
        match problem {
            Some(problem) if is_temporary => self.unreachable(problem.detail),
            Some(problem) => HttpError::Refused(Box::new(problem)),
            None if is_temporary => self.unreachable(format!("a proxy answers {status}")),
            None => self.protocol(format!("it answers {status}")),
        }
    }

    pub fn unreachable(&self, reason: String) -> HttpError {
        HttpError::Unreachable { url: self.url.clone(), reason }
    }

    pub fn protocol(&self, reason: String) -> HttpError {
        HttpError::Protocol { url: self.url.clone(), reason }
    }
}

/// Why one attempt failed.
pub(super) enum Failed {
    /// The connection was lost: whether the service has seen the request is not known.
    Lost(HttpError),
    Final(HttpError),
}

impl Failed {
    /// Returns if the request can be sent again after this attempt.
    fn or_repeat(self, call: &Call, attempt: &mut u32) -> Result<(), HttpError> {
        match self {
            Self::Lost(_) if call.is_repeatable && *attempt < MAX_ATTEMPTS => {
                *attempt += 1;
                Ok(())
            }
            failed => Err(failed.into()),
        }
    }
}

impl From<Failed> for HttpError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Lost(error) | Failed::Final(error) => error,
        }
    }
}

/// The innermost error: "Connection refused" rather than "client error (Connect)".
fn cause(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_needs_scheme_and_host_only() {
        for url in ["", "127.0.0.1:18010", "ftp://a", "http://", "http://a?b=c", "/data-patch", "http://a b"] {
            assert!(matches!(Transport::new(url, "t"), Err(HttpError::Invalid(_))), "{url}");
        }
        let transport = Transport::new("http://[::1]:18010/", "t").ok().unwrap();
        assert_eq!(transport.url, "http://[::1]:18010");
        assert!(matches!(Transport::new("http://a", "line\nbreak"), Err(HttpError::Invalid(_))));
    }

    #[test]
    fn an_answer_is_temporary_refused_or_of_something_else() {
        let transport = Transport::new("http://a", "t").ok().unwrap();
        let problem = |status: u16| {
            format!(r#"{{"type":"about:blank","title":"","status":{status},"detail":"why","code":"unknown_task"}}"#)
        };
        let refusal = |status: u16, body: &str| transport.refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        assert!(matches!(refusal(404, &problem(404)), HttpError::Refused(problem) if problem.code == "unknown_task"));
        assert!(matches!(refusal(404, "<html>"), HttpError::Protocol { .. }));
        for body in ["<html>", &problem(503)] {
            assert!(refusal(503, body).is_retryable(), "{body}");
        }
    }
}
