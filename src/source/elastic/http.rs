//! Requests to the nodes of a cluster: credentials, TLS, and the next node where one is away.

use std::{
    error::Error as _,
    fmt::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use reqwest::{
    Certificate, Client, Identity, Method, Response,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};

use super::error::{HttpError, Refusal};
use crate::{
    config::{Iota, ReadingsUrl},
    source::SourceError,
};

/// The nodes of a cluster. Clones share the connections.
#[derive(Clone)]
pub struct Http {
    client: Client,
    nodes: Arc<[String]>,
    /// The node that answered last, which gets the next request.
    current: Arc<AtomicUsize>,
    limit: Duration,
}

/// A request, which any node may answer and which may be repeated.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub body: Option<String>,
    /// An answer of more bytes is given up.
    pub max_bytes: usize,
}

/// Answers that are no pages of documents.
const MAX_ANSWER_BYTES: usize = 64 * 1_024 * 1_024;

impl Request {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, max_bytes: MAX_ANSWER_BYTES }
    }

    pub fn post(path: impl Into<String>, body: String) -> Self {
        Self { method: Method::POST, path: path.into(), body: Some(body), max_bytes: MAX_ANSWER_BYTES }
    }
}

impl Http {
    /// # Errors
    /// A file cannot be read, or holds no certificate.
    pub fn new(config: &Iota, url: &ReadingsUrl) -> Result<Self, SourceError> {
        let readings = &config.readings;
        let limit = Duration::from_secs(config.timeout_seconds);
        // Fails if one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .user_agent(concat!("data-patch/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers(config, url)?)
            .connect_timeout(limit)
            .pool_max_idle_per_host(config.connections as usize)
            .tcp_keepalive(Duration::from_secs(15))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tls_danger_accept_invalid_certs(!readings.verify_certificates);
        if let Some(path) = &readings.ca_file {
            let pem = read(path, "iota.readings.ca_file")?;
            let authorities =
                Certificate::from_pem_bundle(&pem).map_err(|error| no_pem(path, "iota.readings.ca_file", &error))?;
            if authorities.is_empty() {
                let path = path.display();
                return Err(SourceError::Rejected(format!("iota.readings.ca_file: {path} holds no certificate in PEM")));
            }
            client = client.tls_certs_only(authorities);
        }
        if let Some(path) = &readings.client_certificate_file {
            let name = "iota.readings.client_certificate_file";
            let pem = read(path, name)?;
            client = client.identity(Identity::from_pem(&pem).map_err(|error| no_pem(path, name, &error))?);
        }
        let client =
            client.build().map_err(|error| SourceError::Rejected(format!("iota.readings can't be used: {}", text(&error))))?;
        Ok(Self { client, nodes: url.nodes.as_slice().into(), current: Arc::default(), limit })
    }

    /// Sends a request to the node that answered last, and to the others if it is away.
    ///
    /// # Errors
    /// No node answers, or one refuses the request.
    pub async fn send(&self, request: &Request) -> Result<Bytes, HttpError> {
        let (mut failures, mut is_untrusted) = (String::new(), true);
        let first = self.current.load(Ordering::Relaxed);
        let limit = self.limit_of(request);
        for attempt in 0..self.nodes.len() {
            let number = (first + attempt) % self.nodes.len();
            let Some(node) = self.nodes.get(number) else { break };
            let turn = Turn { http: self, number, started: Instant::now(), limit, is_over: false };
            let answer = turn.ends(tokio::time::timeout(limit, self.ask(node, request))).await;
            let failure = match answer {
                Ok(Ok(body)) => {
                    if self.current.swap(number, Ordering::Relaxed) != number {
                        tracing::info!(node, failures, "another node of the store of readings serves from now on");
                    }
                    return Ok(body);
                }
                Ok(Err(HttpError::Refused(refusal))) if refusal.is_outage() && attempt + 1 < self.nodes.len() => {
                    is_untrusted = false;
                    refusal.to_string()
                }
                Ok(Err(HttpError::Unreachable(failure))) => {
                    is_untrusted = false;
                    failure
                }
                Ok(Err(HttpError::Untrusted(failure))) => failure,
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    is_untrusted = false;
                    no_answer_within(limit)
                }
            };
            let _ = write!(failures, "{}{node}: {failure}", if failures.is_empty() { "" } else { "; " });
        }
        // One that is only away may be the right one.
        Err(if is_untrusted { HttpError::Untrusted(failures) } else { HttpError::Unreachable(failures) })
    }

    /// Sends a request that must not be repeated, to one node.
    ///
    /// # Errors
    /// The node does not answer, or refuses the request.
    pub async fn send_once(&self, request: &Request) -> Result<Bytes, HttpError> {
        let number = self.current.load(Ordering::Relaxed);
        let Some(node) = self.nodes.get(number) else { return Err(HttpError::Unreachable("there is no node".to_owned())) };
        let late = || HttpError::Unreachable(format!("{node}: {}", no_answer_within(self.limit)));
        let answer = tokio::time::timeout(self.limit, self.ask(node, request)).await.unwrap_or_else(|_| Err(late()));
        answer.inspect_err(|error| {
            let is_away = match error {
                HttpError::Unreachable(_) | HttpError::Untrusted(_) => true,
                HttpError::Refused(refusal) => refusal.is_outage(),
                HttpError::TooLarge => false,
            };
            if is_away {
                self.current.store((number + 1) % self.nodes.len(), Ordering::Relaxed);
            }
        })
    }

    /// Sends a request without waiting for its answer to matter.
    pub fn send_in_background(&self, request: Request) {
        let http = self.clone();
        tokio::spawn(async move {
            if let Err(error) = http.send(&request).await {
                tracing::debug!(%error, path = request.path, "a request to the store of readings failed; nothing depends on it");
            }
        });
    }

    /// How long a node may take. A look at the indices makes several requests, and all of them have
    /// `iota.timeout_seconds`: so that others get their turn, a node that hangs must not use it up.
    fn limit_of(&self, request: &Request) -> Duration {
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        if request.method == Method::GET { self.limit / nodes.max(1) } else { self.limit }
    }

    async fn ask(&self, node: &str, request: &Request) -> Result<Bytes, HttpError> {
        let mut builder = self.client.request(request.method.clone(), format!("{node}{}", request.path));
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let mut response = builder.send().await.map_err(|error| no_answer(&error))?;
        let status = response.status();
        let body = read_body(&mut response, request.max_bytes).await?;
        if status.is_success() { Ok(body) } else { Err(HttpError::Refused(Refusal::new(status.as_u16(), &body))) }
    }
}

/// A request to a node. If it is given up after a while (by whoever waits for less than the node may
/// take), the next node gets the next request.
struct Turn<'a> {
    http: &'a Http,
    number: usize,
    started: Instant,
    limit: Duration,
    is_over: bool,
}

impl Turn<'_> {
    async fn ends<T>(mut self, request: impl Future<Output = T>) -> T {
        let answer = request.await;
        self.is_over = true;
        answer
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.started.elapsed() > self.limit / 2 {
            let next = (self.number + 1) % self.http.nodes.len().max(1);
            let current = &self.http.current;
            let _ = current.compare_exchange(self.number, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

fn no_answer_within(limit: Duration) -> String {
    format!("no complete answer within {} s", limit.as_secs_f64())
}

async fn read_body(response: &mut Response, max_bytes: usize) -> Result<Bytes, HttpError> {
    let announced = response.content_length().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default();
    if announced > max_bytes {
        return Err(HttpError::TooLarge);
    }
    let mut body = BytesMut::with_capacity(announced);
    while let Some(chunk) = response.chunk().await.map_err(|error| no_answer(&error))? {
        if body.len() + chunk.len() > max_bytes {
            return Err(HttpError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn headers(config: &Iota, url: &ReadingsUrl) -> Result<HeaderMap, SourceError> {
    let readings = &config.readings;
    let basic = |user: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let credentials = if let Some((user, password)) = &url.credentials {
        Some(basic(user, password.reveal()))
    } else if !readings.username.is_empty() {
        Some(basic(&readings.username, readings.password.reveal()))
    } else if !readings.api_key.reveal().is_empty() {
        Some(format!("ApiKey {}", readings.api_key.reveal()))
    } else if !readings.bearer_token.reveal().is_empty() {
        Some(format!("Bearer {}", readings.bearer_token.reveal()))
    } else {
        None
    };
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(credentials) = credentials {
        let mut credentials = HeaderValue::try_from(credentials).map_err(|_| {
            SourceError::Rejected("the credentials in iota.readings have characters that no HTTP header can have".to_owned())
        })?;
        credentials.set_sensitive(true);
        headers.insert(AUTHORIZATION, credentials);
    }
    Ok(headers)
}

fn read(path: &Path, option: &str) -> Result<Vec<u8>, SourceError> {
    std::fs::read(path).map_err(|error| SourceError::Rejected(format!("{option}: {} can't be read: {error}", path.display())))
}

fn no_pem(path: &Path, option: &str, error: &reqwest::Error) -> SourceError {
    SourceError::Rejected(format!("{option}: {} holds no usable PEM: {}", path.display(), text(error)))
}

/// Why there is no answer, and what to set if it is for a certificate.
fn no_answer(error: &reqwest::Error) -> HttpError {
    let text = text(error);
    if text.contains("received fatal alert") {
        // Since TLS 1.3 the server looks at the client's certificate after the handshake.
        return HttpError::Untrusted(format!(
            "{text}. The server does not accept this client; iota.readings.client_certificate_file names its certificate and key"
        ));
    }
    if text.contains("certificate") {
        return HttpError::Untrusted(format!(
            "{text}. iota.readings.ca_file names the certificate of the authority that signed the server's"
        ));
    }
    HttpError::Unreachable(text)
}

/// An error with its causes, and without the URL.
fn text(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, "{}{error}", if text.is_empty() { "" } else { ": " });
        cause = error.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}
