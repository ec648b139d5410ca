//! The HTTP API under [`PREFIX`]: the same use cases as the WebSocket, with the same checks and
//! errors. `docs/api.md` describes it.

mod catalog;
mod csv;
mod error;
mod events;
mod ndjson;
mod openapi;
mod preview;
mod query;
mod receipt;
mod route;
mod tasks;

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use warp::{
    Reply,
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header},
    reply::Response,
};

use super::{
    ServerState,
    admission::{AdmissionGuard, Stage},
    auth, upgrade,
};
use crate::{
    protocol::{Token, http::PREFIX},
    service::Caller,
};
use error::ApiError;
pub use openapi::openapi;
use query::Query;
use route::{Action, Route};

/// What an endpoint is called with.
struct Call<'a> {
    state: &'a Arc<ServerState>,
    caller: Caller,
    /// The token of the request. A stream ends when it is accepted no longer.
    token: Token,
    /// The same token in clear, for errors that must not show it.
    secret: String,
    headers: HeaderMap,
    query: Query,
    body: Bytes,
    /// A request for the headers only.
    is_head: bool,
}

/// Whether a path belongs to the API.
pub fn is_api(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request.
pub async fn respond(state: &Arc<ServerState>, guard: &AdmissionGuard, address: IpAddr, request: Request<Incoming>) -> Response {
    let mut response = match answer(state, guard, address, request).await {
        Ok(response) => response,
        Err(error) => {
            state.metrics.request_rejected(error.code());
            error.response()
        }
    };
    // Readings and counts change all the time.
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn answer(
    state: &Arc<ServerState>,
    guard: &AdmissionGuard,
    address: IpAddr,
    request: Request<Incoming>,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let route = Route::of(path)?;
    if parts.method == Method::OPTIONS {
        return Ok(route.options());
    }
    let headers = &parts.headers;
    if !upgrade::is_allowed_origin(headers, &state.config.allowed_origins) && !upgrade::is_own_origin(headers) {
        return Err(ApiError::origin());
    }
    // Until the token is known to be right, the connection is among the first to be closed when
    // there are too many: the answer to a wrong one is delayed.
    guard.reached(Stage::WrongToken);
    let (identity, secret) =
        auth::authenticate(&parts.headers, address, &state.tokens, &state.login_throttle).await.map_err(ApiError::auth)?;
    guard.authenticate();
    let action = route.action(&parts.method)?;
    let body = read_body(state, &parts.headers, action, body).await?;
    let call = Call {
        state,
        caller: Caller { token: identity.name, role: identity.role, address },
        token: Token::new(&secret),
        secret,
        headers: parts.headers,
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        body,
        is_head: parts.method == Method::HEAD,
    };
    Box::pin(call.run(action)).await
}

/// Reads the body of a request that has one.
async fn read_body(state: &ServerState, headers: &HeaderMap, action: Action, body: Incoming) -> Result<Bytes, ApiError> {
    let limit = state.config.max_message_bytes;
    let bytes = match Limited::new(body, limit).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => return Err(ApiError::body_too_large(limit)),
        Err(_) => return Err(ApiError::incomplete_body()),
    };
    if action.has_body() && !bytes.is_empty() {
        let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::media_type(media_type));
        }
    }
    Ok(bytes)
}

impl Call<'_> {
    async fn run(&self, action: Action) -> Result<Response, ApiError> {
        match action {
            Action::Submit => self.submit().await,
            Action::List => self.list().await,
            Action::Show(id) => self.show(id).await,
            Action::SetRate(id) => self.set_rate(id).await,
            Action::Jobs(id) => self.jobs(id).await,
            Action::Events(id) => self.events(id).await,
            Action::Steer(id, steer) => self.steer(id, steer).await,
            Action::Retry(id) => self.retry(id).await,
            Action::Quarantine(id) => self.quarantine(id).await,
            Action::Receipt(id) => self.receipt(id).await,
            Action::Verify(id) => self.verify(id).await,
            Action::Preview => self.preview().await,
            Action::Things => self.things().await,
            Action::Devices(thing) => self.devices(thing).await,
            Action::Service => self.service().await,
            Action::Drain(instance, drains) => self.drain(instance, drains).await,
        }
    }

    /// The text of the body.
    fn text(&self) -> Result<&str, ApiError> {
        std::str::from_utf8(&self.body).map_err(|_| ApiError::not_utf8())
    }

    /// Whether the client prefers this media type over JSON.
    fn accepts(&self, media_type: &str) -> bool {
        let accept = self.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        accept.split(',').any(|part| part.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type))
    }
}

/// A JSON response.
fn json(status: StatusCode, body: &impl Serialize) -> Response {
    warp::reply::with_status(warp::reply::json(body), status).into_response()
}
