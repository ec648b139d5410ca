//! From an HTTP request to a WebSocket (RFC 6455, section 4.2).
//!
//! warp can do it too, but does not let its buffers be chosen: 128 KiB for each of thousands of connections that mostly
//! say nothing.

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use warp::{
    Filter, Rejection, Reply,
    http::{HeaderValue, StatusCode, header},
    reject::Reject,
    reply::Response,
};

/// A client's connection.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Bytes that are read, and that are gathered before they are written, at once. Larger messages take several steps.
const BUFFER: usize = 4 * 1_024;

/// A request that may become a WebSocket.
pub struct Upgrade {
    key: String,
    upgrade: OnUpgrade,
}

/// The request is no WebSocket's.
#[derive(Debug)]
struct NoWebSocket;

impl Reject for NoWebSocket {}

/// Lets requests for a WebSocket pass.
pub fn upgrade() -> impl Filter<Extract = (Upgrade,), Error = Rejection> + Clone {
    warp::get()
        .and(warp::header::<String>("connection"))
        .and(warp::header::exact_ignore_case("upgrade", "websocket"))
        .and(warp::header::exact("sec-websocket-version", "13"))
        .and(warp::header::<String>("sec-websocket-key"))
        .and(warp::ext::get::<OnUpgrade>())
        .and_then(|connection: String, key: String, upgrade: OnUpgrade| async move {
            // A list, of which browsers send more than this.
            if connection.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade")) {
                return Ok(Upgrade { key, upgrade });
            }
            Err(warp::reject::custom(NoWebSocket))
        })
}

impl Upgrade {
    /// Accepts it, and serves it when the client has heard so. A message or frame over `limit` bytes is an error.
    pub fn accept<F>(self, limit: usize, serve: impl FnOnce(Socket) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { key, upgrade } = self;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_message_size(Some(limit))
            .max_frame_size(Some(limit));
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    serve(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await).await;
                }
                Err(error) => tracing::debug!(%error, "a client left before its connection was a WebSocket"),
            }
        });
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        // Base64 is legal in a header.
        if let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }
}
