//! One TCP connection up to its first request: answered, and closed; or on to a WebSocket.

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
    inbound::{Inbound, Metered},
    socket,
    upgrade::{self, Handshake},
};
use crate::{protocol, telemetry::GaugeGuard};

/// What an answer may take to be made, and to be read by the client.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a request's header; one that needs more is refused. The least that hyper allows is half of it.
const MAX_HEADER: usize = 16 * 1_024;

/// What a connection needs beside itself.
pub struct Shared<S> {
    pub context: Arc<ServerState>,
    /// What answers the requests that are none for a WebSocket.
    pub routes: S,
    /// WebSockets, to be waited for at the end.
    pub sockets: TaskTracker,
}

/// Serves the connection of `peer`. Returns when it is closed, or a task of its own serves it as a WebSocket.
pub async fn serve<S>(stream: TcpStream, peer: IpAddr, place: AdmissionGuard, shared: Arc<Shared<S>>)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let (context, place) = (Arc::clone(&shared.context), Arc::new(place));
    let handshake = Duration::from_secs(context.config.handshake_seconds);
    let service = {
        let place = Arc::clone(&place);
        hyper::service::service_fn(move |request: Request<Incoming>| {
            let (shared, place) = (Arc::clone(&shared), Arc::clone(&place));
            async move {
                let mut response = answer(request, peer, place, &shared).await;
                // One request is enough: a connection that is kept open takes a place. (hyper's own option for it would put a
                // `close` beside a WebSocket's `upgrade` too.)
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    response.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        })
    };
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(handshake)
            .max_buf_size(MAX_HEADER)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let stopping = async {
        context.close_connections.cancelled().await;
    };
    tokio::select! {
        // Clients that leave or send no HTTP are no news.
        _ = &mut connection => return,
        () = place.evicted() => return,
        () = tokio::time::sleep(handshake + ANSWER_TIMEOUT) => return,
        () = stopping => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, connection).await;
}

async fn answer<S>(mut request: Request<Incoming>, peer: IpAddr, place: Arc<AdmissionGuard>, shared: &Shared<S>) -> Response
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    let context = &shared.context;
    let address = context.proxies.client(peer, request.headers());
    place.identify(address);
    if request.uri().path() != protocol::PATH {
        place.reached(Stage::Answer);
        // Boxed, since most connections ask no such thing.
        return match Box::pin(shared.routes.call(request)).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
    }
    let upgrading = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let response = match upgrade::answer(&parts, &context.config.allowed_origins) {
        Handshake::Accepted(response) => response,
        Handshake::Refused(response) => return response,
    };
    if place.is_of_reserve() {
        context.full.log(|times| {
            tracing::warn!(limit = context.config.max_connections, times, "connections are refused: there are too many");
        });
        let text = "too many connections (server.max_connections); try again later\n";
        return warp::reply::with_status(text, StatusCode::SERVICE_UNAVAILABLE).into_response();
    }
    place.reached(Stage::NoToken);
    let context = Arc::clone(context);
    shared.sockets.spawn(async move {
        let upgraded = match upgrading.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, "a client left before its connection was a WebSocket"),
        };
        let (inbound, limit) = (Arc::new(Inbound::default()), context.config.max_message_bytes);
        let token = context.rules.token.clone();
        let metered = Metered::new(TokioIo::new(upgraded), Arc::clone(&inbound), Arc::clone(&context.budget), token, limit);
        let counted = GaugeGuard::new(&context.metrics.connections);
        socket::serve(upgrade::socket(metered, limit).await, &inbound, address, &place, &context).await;
        drop(counted);
    });
    response
}
