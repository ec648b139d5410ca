//! The way in by socket: the WebSocket of the contract, and what operators ask over HTTP.

mod accept;
mod admission;
mod connection;
mod early_token;
mod frames;
mod health;
mod inbound;
mod login_throttle;
mod proxies;
mod session;
mod socket;
mod upgrade;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::{Filter, Rejection, Reply, http::StatusCode, reply::Response};

use crate::{
    config, protocol::RequestPolicy, queue::Queue, service::TaskService, sink::kafka::Kafka, source::Source, telemetry::Metrics,
};

pub use accept::LogThrottle;
pub use admission::EXTRA_SOCKETS;
pub use health::Readiness;
pub use inbound::ReceiveBudget;
pub use login_throttle::LoginThrottle;
pub use proxies::TrustedProxies;

/// What connections work with.
pub struct ServerState {
    /// What clients may do.
    pub tasks: TaskService,
    pub queue: Queue,
    pub store: Source,
    pub kafka: Kafka,
    pub rules: RequestPolicy,
    pub config: config::Server,
    pub metrics: Metrics,
    /// Wrong tokens, by address.
    pub guesses: LoginThrottle,
    pub readiness: Readiness,
    pub proxies: TrustedProxies,
    /// For messages that are being received.
    pub budget: Arc<ReceiveBudget>,
    /// Tells that there are too many connections.
    pub full: LogThrottle,
    /// The service is stopping: no new work is taken in.
    pub draining: CancellationToken,
    /// Connections are to be closed.
    pub close_connections: CancellationToken,
}

/// Listens on an address; port 0 takes a free one.
///
/// # Errors
/// The address is in use or not this machine's.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it: a log line is small, and goes out at once.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(1_024)
}

/// Serves until [`ServerState::close_connections`]; then closes the connections, and returns when they are closed.
pub async fn run(context: Arc<ServerState>, listener: TcpListener, patience: Duration) {
    let (connections, sockets) = (TaskTracker::new(), TaskTracker::new());
    let shared = Arc::new(connection::Shared {
        context: Arc::clone(&context),
        routes: TowerToHyperService::new(warp::service(routes(&context))),
        sockets: sockets.clone(),
    });
    let admission = admission::Admission::new(&context.config);
    let errors = LogThrottle::default();
    let taking = async {
        while let Some(place) = admission.socket().await {
            let (stream, peer) = accept::accept(&listener, &errors).await;
            let peer = peer.ip().to_canonical();
            let place = admission.enter(place, (!context.proxies.contains(peer)).then_some(peer));
            connections.spawn(connection::serve(stream, peer, place, Arc::clone(&shared)));
        }
    };
    tokio::select! {
        () = taking => {}
        () = context.close_connections.cancelled() => {}
    }
    drop(listener);
    connections.close();
    sockets.close();
    let closed = async {
        connections.wait().await;
        sockets.wait().await;
    };
    if tokio::time::timeout(patience, closed).await.is_err() {
        tracing::warn!("some connections did not close in time");
    }
}

/// What is asked over HTTP.
fn routes(
    context: &Arc<ServerState>,
) -> impl Filter<Extract = (impl Reply + use<>,), Error = Infallible> + Clone + Send + Sync + 'static + use<> {
    let of = |context: &Arc<ServerState>| {
        let context = Arc::clone(context);
        warp::any().map(move || Arc::clone(&context))
    };
    let alive = warp::path!("healthz").map(|| "ok\n".into_response());
    let ready = warp::path!("readyz")
        .and(of(context))
        .then(|context: Arc<ServerState>| async move { Box::pin(health::ready(&context)).await });
    let metrics = warp::path!("metrics").and(of(context)).and(warp::header::optional::<String>("accept")).then(
        |context: Arc<ServerState>, accept: Option<String>| async move { health::metrics(&context, accept.as_deref()).await },
    );
    alive.or(ready).unify().or(metrics).unify().recover(handle_rejection).map(Reply::into_response)
}

/// What is not found, said so that a person can go on.
async fn handle_rejection(rejection: Rejection) -> Result<Response, Infallible> {
    let text = format!("here are {} (a WebSocket), /healthz, /readyz and /metrics\n", crate::protocol::PATH);
    let status = if rejection.is_not_found() { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
    Ok(warp::reply::with_status(text, status).into_response())
}
