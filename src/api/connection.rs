//! One TCP connection: its only request is answered, or upgraded to a WebSocket.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use warp::{
    Reply,
    http::{HeaderValue, Request, StatusCode, header},
    reply::Response,
};

use super::{
    ServerState,
    admission::{AdmissionGuard, Stage},
    http,
    inbound::{Inbound, Metered},
    page, socket,
    upgrade::{self, Handshake},
};
use crate::{protocol, telemetry::GaugeGuard};

/// Timeout for producing an HTTP response, and for sending it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum bytes of a request's header. hyper's minimum is half of it.
const MAX_HEADER_BYTES: usize = 16 * 1_024;

/// State shared by all connections.
pub struct Shared<S> {
    pub state: Arc<ServerState>,
    /// Serves requests other than WebSocket upgrades.
    pub routes: S,
    /// WebSocket tasks, awaited at shutdown.
    pub sockets: TaskTracker,
}

/// Serves the connection of `peer`. Returns when it is closed or was upgraded; a WebSocket is
/// served by a separate task.
pub async fn serve<S>(stream: TcpStream, peer: IpAddr, guard: AdmissionGuard, shared: Arc<Shared<S>>)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let (state, guard) = (Arc::clone(&shared.state), Arc::new(guard));
    let handshake_timeout = Duration::from_secs(state.config.handshake_seconds);
    let service = {
        let guard = Arc::clone(&guard);
        hyper::service::service_fn(move |request: Request<Incoming>| {
            let (shared, guard) = (Arc::clone(&shared), Arc::clone(&guard));
            async move {
                let mut response = respond(request, peer, Arc::clone(&guard), &shared).await;
                // One request per connection, since an idle connection counts against the limits,
                // except for the API's clients, which have sent a token and ask often. (hyper's
                // own option would add `close` to the `upgrade` of a WebSocket too.)
                if response.status() != StatusCode::SWITCHING_PROTOCOLS && !guard.is_authenticated() {
                    response.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        })
    };
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(handshake_timeout)
            .max_buf_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    tokio::select! {
        // A client that disconnects or sends invalid HTTP is not worth a log line.
        _ = &mut connection => return,
        () = guard.evicted() => return,
        () = without_token(&guard, handshake_timeout + ANSWER_TIMEOUT) => return,
        () = state.close_connections.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, connection).await;
}

/// Returns if the client has not sent a token within `timeout`. One that has may keep its connection,
/// and may follow a log on it for hours; while it is idle, `header_read_timeout` closes it.
async fn without_token(guard: &AdmissionGuard, timeout: Duration) {
    tokio::time::sleep(timeout).await;
    if guard.is_authenticated() {
        std::future::pending::<()>().await;
    }
}

fn too_many(state: &ServerState) -> Response {
    state.refused_connections.log(|times| {
        tracing::warn!(limit = state.config.max_connections, times, "connections are refused: there are too many");
    });
    let text = "too many connections (server.max_connections); try again later\n";
    warp::reply::with_status(text, StatusCode::SERVICE_UNAVAILABLE).into_response()
}

async fn respond<S>(mut request: Request<Incoming>, peer: IpAddr, guard: Arc<AdmissionGuard>, shared: &Shared<S>) -> Response
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    let state = &shared.state;
    let address = state.proxies.client(peer, request.headers());
    guard.identify(address);
    if http::is_api(request.uri().path()) {
        if guard.is_in_reserve() {
            return too_many(state);
        }
        return Box::pin(http::respond(state, &guard, address, request)).await;
    }
    if let Some(response) = page::respond(request.method(), request.uri().path(), request.headers()) {
        guard.reached(Stage::Answer);
        return if guard.is_in_reserve() { too_many(state) } else { response };
    }
    if request.uri().path() != protocol::PATH {
        guard.reached(Stage::Answer);
        // Boxed, since most connections do not need it.
        return match Box::pin(shared.routes.call(request)).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
    }
    let upgrading = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let response = match upgrade::respond(&parts, &state.config.allowed_origins) {
        Handshake::Accepted(response) => response,
        Handshake::Refused(response) => return response,
    };
    if guard.is_in_reserve() {
        return too_many(state);
    }
    guard.reached(Stage::NoToken);
    let state = Arc::clone(state);
    shared.sockets.spawn(async move {
        let upgraded = match upgrading.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, "a client disconnected before its connection was upgraded"),
        };
        let (inbound, limit) = (Arc::new(Inbound::default()), state.config.max_message_bytes);
        let (budget, tokens) = (Arc::clone(&state.receive_budget), Arc::clone(&state.tokens));
        let metered = Metered::new(TokioIo::new(upgraded), Arc::clone(&inbound), budget, tokens, limit);
        let gauge = GaugeGuard::new(&state.metrics.connections);
        socket::serve(upgrade::socket(metered, limit).await, &inbound, address, &guard, &state).await;
        drop(gauge);
    });
    response
}
