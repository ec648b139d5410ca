//! The network interface: the WebSocket of the contract, the HTTP API, the page, and the HTTP
//! endpoints for operators.

mod accept;
mod admission;
pub mod auth;
mod connection;
mod early_token;
mod exposition;
mod frames;
mod health;
mod http;
mod inbound;
mod login_throttle;
mod page;
mod proxies;
mod session;
mod socket;
mod upgrade;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::{Filter, Rejection, Reply, http::StatusCode, reply::Response};

use crate::{
    config,
    queue::Queue,
    service::{Catalog, Previews, TaskService},
    sink::kafka::Kafka,
    source::Source,
    telemetry::Metrics,
};

use auth::Tokens;

pub use accept::LogThrottle;
pub use admission::EXTRA_SOCKETS;
pub use health::Readiness;
pub use inbound::ReceiveBudget;
pub use login_throttle::LoginThrottle;
pub use page::PATH as PAGE_PATH;
pub use proxies::TrustedProxies;

/// State shared by all connections.
pub struct ServerState {
    /// What clients may do.
    pub tasks: TaskService,
    /// Things and devices to choose from.
    pub catalog: Catalog,
    pub previews: Previews,
    pub queue: Queue,
    pub source: Source,
    pub kafka: Kafka,
    pub tokens: Arc<Tokens>,
    pub config: config::Server,
    pub metrics: Metrics,
    /// Failed logins, by address.
    pub login_throttle: LoginThrottle,
    pub readiness: Readiness,
    pub proxies: TrustedProxies,
    /// Memory for messages that are being received.
    pub receive_budget: Arc<ReceiveBudget>,
    /// Limits the warnings about refused connections.
    pub refused_connections: LogThrottle,
    /// Cancelled when connections must be closed.
    pub close_connections: CancellationToken,
    /// Streams of server-sent events, awaited at shutdown.
    pub streams: TaskTracker,
    /// When the service was started, by both clocks.
    pub started_at: (DateTime<Utc>, Instant),
    /// Days until finished tasks are removed.
    pub retention_days: u32,
}

/// The encodings of a log entry that clients share ([`EncodedEntry::encoded`]): at most
/// [`MAX_ENCODINGS`](crate::queue::log_hub::MAX_ENCODINGS).
///
/// [`EncodedEntry::encoded`]: crate::queue::log_hub::EncodedEntry::encoded
#[derive(Debug, Clone, Copy)]
enum Encoding {
    /// A message of the WebSocket.
    Message,
    /// A server-sent event with an English text, and with a Chinese one.
    EnglishStream,
    ChineseStream,
}

/// Listens on an address; port 0 selects a free port.
///
/// # Errors
/// The address is in use, or does not belong to this machine.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Inherited by accepted connections: a log line is small and must be sent at once.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(1_024)
}

/// Serves until [`ServerState::close_connections`] is cancelled; returns when all connections are
/// closed, or after `close_timeout`.
pub async fn run(state: Arc<ServerState>, listener: TcpListener, close_timeout: Duration) {
    let (connections, sockets) = (TaskTracker::new(), TaskTracker::new());
    let shared = Arc::new(connection::Shared {
        state: Arc::clone(&state),
        routes: TowerToHyperService::new(warp::service(routes(&state))),
        sockets: sockets.clone(),
    });
    let admission = admission::Admission::new(&state.config);
    let errors = LogThrottle::default();
    let accepting = async {
        while let Some(guard) = admission.socket().await {
            let (stream, peer) = accept::accept(&listener, &errors).await;
            let peer = peer.ip().to_canonical();
            let guard = admission.enter(guard, (!state.proxies.contains(peer)).then_some(peer));
            connections.spawn(connection::serve(stream, peer, guard, Arc::clone(&shared)));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = state.close_connections.cancelled() => {}
    }
    drop(listener);
    connections.close();
    sockets.close();
    state.streams.close();
    let closed = async {
        connections.wait().await;
        sockets.wait().await;
        state.streams.wait().await;
    };
    if tokio::time::timeout(close_timeout, closed).await.is_err() {
        tracing::warn!("some connections did not close before the timeout");
    }
}

/// The HTTP endpoints.
fn routes(
    state: &Arc<ServerState>,
) -> impl Filter<Extract = (impl Reply + use<>,), Error = Infallible> + Clone + Send + Sync + 'static + use<> {
    let with_state = |state: &Arc<ServerState>| {
        let state = Arc::clone(state);
        warp::any().map(move || Arc::clone(&state))
    };
    let alive = warp::path!("healthz").map(|| "ok\n".into_response());
    let ready = warp::path!("readyz")
        .and(with_state(state))
        .then(|state: Arc<ServerState>| async move { Box::pin(health::ready(&state)).await });
    let metrics = warp::path!("metrics")
        .and(with_state(state))
        .and(warp::header::optional::<String>("accept"))
        .then(|state: Arc<ServerState>, accept: Option<String>| async move { health::metrics(&state, accept.as_deref()).await });
    // Public: it is the same for every service of this version.
    let openapi = warp::path!("data-patch" / "openapi.json").map(http::openapi);
    alive.or(ready).unify().or(metrics).unify().or(openapi).unify().recover(handle_rejection).map(Reply::into_response)
}

/// Replies to unknown paths with the list of endpoints.
async fn handle_rejection(rejection: Rejection) -> Result<Response, Infallible> {
    let text = format!(
        "available here: {} (a page for browsers), {} (a WebSocket), {} (the HTTP API), /data-patch/openapi.json, /healthz, /readyz and /metrics\n",
        page::PATH,
        crate::protocol::PATH,
        crate::protocol::http::PREFIX
    );
    let status = if rejection.is_not_found() { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
    Ok(warp::reply::with_status(text, status).into_response())
}
