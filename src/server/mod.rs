//! The way in by socket: the WebSocket of the contract, and what operators ask over HTTP.

mod guesses;
mod health;
mod session;
mod socket;
mod upgrade;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::{Filter, Rejection, Reply, http::StatusCode, reply::Response};

use crate::{
    config,
    iota::Store,
    kafka::Kafka,
    protocol::Rules,
    queue::Queue,
    telemetry::{Counted, Metrics},
};

pub use guesses::Guesses;
pub use health::Readiness;
use upgrade::Upgrade;

/// What connections work with.
pub struct Context {
    pub queue: Queue,
    pub store: Store,
    pub kafka: Kafka,
    pub rules: Rules,
    pub config: config::Server,
    pub metrics: Metrics,
    /// Wrong tokens, by address.
    pub guesses: Guesses,
    pub readiness: Readiness,
    /// The service is stopping: no new work is taken in.
    pub closing: CancellationToken,
    /// Connections are to be closed.
    pub disconnect: CancellationToken,
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

/// Serves until [`Context::disconnect`]; then closes the connections, and returns when they are closed.
pub async fn run(context: Arc<Context>, listener: TcpListener, patience: Duration) {
    let connections = TaskTracker::new();
    let disconnect = context.disconnect.clone();
    let server = warp::serve(routes(&context, &connections))
        .incoming(listener)
        .graceful(async move { disconnect.cancelled().await })
        .run();
    let serving = async {
        server.await;
        // A WebSocket is no longer warp's, nor in its graceful shutdown, so connections are tracked here.
        connections.close();
        connections.wait().await;
    };
    let overdue = async {
        context.disconnect.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        () = serving => {}
        () = overdue => tracing::warn!("some connections did not close in time"),
    }
}

fn routes(
    context: &Arc<Context>,
    connections: &TaskTracker,
) -> impl Filter<Extract = (impl Reply + use<>,), Error = Infallible> + Clone + Send + Sync + 'static + use<> {
    let free = Arc::new(Semaphore::new(context.config.max_connections));
    let socket = {
        let (context, connections) = (Arc::clone(context), connections.clone());
        warp::path!("data-patch" / "websocket").and(warp::addr::remote()).and(upgrade::upgrade()).map(
            move |address: Option<SocketAddr>, request| {
                // A TCP connection has one.
                let address = address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
                accept(request, address, &context, &connections, &free)
            },
        )
    };
    let of = |context: &Arc<Context>| {
        let context = Arc::clone(context);
        warp::any().map(move || Arc::clone(&context))
    };
    let alive = warp::path!("healthz").map(|| "ok\n".into_response());
    let ready = warp::path!("readyz")
        .and(of(context))
        .then(|context: Arc<Context>| async move { Box::pin(health::ready(&context)).await });
    let metrics =
        warp::path!("metrics").and(of(context)).then(|context: Arc<Context>| async move { health::metrics(&context).await });
    socket.or(alive).unify().or(ready).unify().or(metrics).unify().recover(explain).map(Reply::into_response)
}

fn accept(
    request: Upgrade,
    address: IpAddr,
    context: &Arc<Context>,
    connections: &TaskTracker,
    free: &Arc<Semaphore>,
) -> Response {
    if !context.guesses.admits(address) {
        let text = "too many wrong tokens come from this address; try again in a few seconds\n";
        return warp::reply::with_status(text, StatusCode::TOO_MANY_REQUESTS).into_response();
    }
    let Ok(place) = Arc::clone(free).try_acquire_owned() else {
        tracing::warn!(limit = context.config.max_connections, "a connection is refused: there are too many");
        let text = "too many connections (server.max_connections); try again later\n";
        return warp::reply::with_status(text, StatusCode::SERVICE_UNAVAILABLE).into_response();
    };
    let limit = context.config.max_message_bytes;
    let context = Arc::clone(context);
    // From now, not from the upgrade on: a shutdown in between is to wait for it.
    let tracked = connections.token();
    request.accept(limit, move |socket| async move {
        let counted = Counted::new(&context.metrics.connections);
        socket::serve(socket, address, &context).await;
        drop((counted, place, tracked));
    })
}

/// What is not found, or is no WebSocket, said so that a person can go on.
async fn explain(rejection: Rejection) -> Result<Response, Infallible> {
    let text = format!("here are {} (a WebSocket), /healthz, /readyz and /metrics\n", crate::protocol::PATH);
    let status = if rejection.is_not_found() { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
    Ok(warp::reply::with_status(text, status).into_response())
}
