//! The opening handshake of a WebSocket (RFC 6455, section 4.2).
//!
//! warp's own implementation has a fixed buffer size of 128 KiB, too much for thousands of idle
//! connections.

use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use warp::{
    Reply,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts},
    reply::Response,
};

use super::inbound::{Metered, SOCKET_BUFFER};

/// The WebSocket of a client.
pub type Socket = WebSocketStream<Metered<TokioIo<hyper::upgrade::Upgraded>>>;

/// Maximum bytes buffered for a client that does not read: one message of ours, and a pong for each
/// ping. Over this limit only the last pong is kept.
const MAX_UNSENT: usize = 1_024 * 1_024;

/// Creates a WebSocket on an upgraded connection. A message or frame over `limit` bytes is an
/// error.
pub async fn socket(connection: Metered<TokioIo<hyper::upgrade::Upgraded>>, limit: usize) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(SOCKET_BUFFER)
        .write_buffer_size(SOCKET_BUFFER)
        .max_write_buffer_size(MAX_UNSENT)
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// The response to an upgrade request.
#[derive(Debug)]
pub enum Handshake {
    Accepted(Response),
    Refused(Response),
}

/// Responds to an upgrade request. If `origins` is not empty, an `Origin` header must be one of
/// them.
pub fn respond(request: &Parts, origins: &[String]) -> Handshake {
    match check(request, origins) {
        Ok(key) => Handshake::Accepted(switching_protocols(key)),
        Err(error) => Handshake::Refused(error.response()),
    }
}

/// Why an upgrade request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandshakeError {
    Method,
    OldHttp,
    Host,
    NoUpgrade,
    Version,
    Key,
    Origin,
}

impl HandshakeError {
    fn response(self) -> Response {
        let (status, text) = match self {
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "a WebSocket handshake must use GET"),
            Self::OldHttp => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "a WebSocket needs HTTP/1.1"),
            Self::Host => (StatusCode::BAD_REQUEST, "the request must have one Host"),
            Self::NoUpgrade => (
                StatusCode::UPGRADE_REQUIRED,
                "this is a WebSocket: the request must have Connection: Upgrade and Upgrade: websocket (ws:// or wss:// in place of http)",
            ),
            Self::Version => (StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13"),
            Self::Key => (StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be the base64 of 16 bytes, once"),
            Self::Origin => (StatusCode::FORBIDDEN, "pages of this Origin may not connect (server.allowed_origins)"),
        };
        let mut response = warp::reply::with_status(format!("{text}\n"), status).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Method => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            Self::NoUpgrade | Self::Version => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        response
    }
}

/// Validates an upgrade request; returns its key.
fn check<'a>(request: &'a Parts, origins: &[String]) -> Result<&'a HeaderValue, HandshakeError> {
    let headers = &request.headers;
    if request.method != Method::GET {
        return Err(HandshakeError::Method);
    }
    if request.version < Version::HTTP_11 {
        return Err(HandshakeError::OldHttp);
    }
    single_value(headers, &header::HOST).ok_or(HandshakeError::Host)?;
    if !has_element(headers, &header::CONNECTION, "upgrade") || !has_element(headers, &header::UPGRADE, "websocket") {
        return Err(HandshakeError::NoUpgrade);
    }
    // The version is checked before the key, whose format may differ in other versions.
    if single_value(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        return Err(HandshakeError::Version);
    }
    let key =
        single_value(headers, &header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes())).ok_or(HandshakeError::Key)?;
    if !is_allowed_origin(headers, origins) {
        return Err(HandshakeError::Origin);
    }
    Ok(key)
}

/// Whether the page that a browser sends a request for may use the service; `origins` lists those
/// that may, and allows all if it is empty. Programs send no `Origin`.
pub fn is_allowed_origin(headers: &HeaderMap, origins: &[String]) -> bool {
    let allowed = |origin: &HeaderValue| origins.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()));
    origins.is_empty() || headers.get_all(header::ORIGIN).iter().all(allowed)
}

/// Whether a request comes from the service's own page: its `Origin` is where it was sent to. (A page
/// whose host name is pointed at the service passes too, but has no token: browsers keep what the own
/// page stores from it.)
pub fn is_own_origin(headers: &HeaderMap) -> bool {
    let (Some(origin), Some(host)) = (single_value(headers, &header::ORIGIN), single_value(headers, &header::HOST)) else {
        return false;
    };
    let origin = origin.as_bytes();
    let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_bytes()))
}

/// The value of a header that occurs exactly once.
fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether a header, which is a list and may occur several times, contains an element.
fn has_element(headers: &HeaderMap, name: &HeaderName, element: &str) -> bool {
    let elements = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    elements.map(str::trim).any(|item| item.eq_ignore_ascii_case(element))
}

/// Whether a text is the base64 of 16 bytes: 22 digits and padding. The four unused bits of the
/// last digit may be set, since some clients choose the digits at random.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|digits| digits.iter().all(is_digit))
}

fn switching_protocols(key: &HeaderValue) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    // Base64 is a valid header value.
    if let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

#[cfg(test)]
mod tests {
    use warp::http::Request;

    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("host", "x"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    /// Checks a valid request with some headers replaced.
    fn check_with(changes: &[(&str, &[&str])], origins: &[&str]) -> Result<(), HandshakeError> {
        let mut request = Request::builder();
        for (name, value) in GOOD.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name)) {
            request = request.header(*name, *value);
        }
        for (name, values) in changes {
            for value in *values {
                request = request.header(*name, *value);
            }
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let origins: Vec<String> = origins.iter().map(|&origin| origin.to_owned()).collect();
        check(&parts, &origins).map(|_| ())
    }

    #[test]
    fn the_handshake_is_checked_as_rfc_6455_demands() {
        for (changes, expected) in [
            (vec![], Ok(())),
            (vec![("connection", &["keep-alive, Upgrade"][..])], Ok(())),
            (vec![("connection", &["keep-alive", "UPGRADE"])], Ok(())),
            (vec![("connection", &["upgrade", "keep-alive"])], Ok(())),
            (vec![("connection", &["close", "x,upgrade ,y"])], Ok(())),
            (vec![("upgrade", &["h2c, WebSocket"])], Ok(())),
            (vec![("upgrade", &["h2c", "websocket"])], Ok(())),
            (vec![("connection", &["keep-alive"])], Err(HandshakeError::NoUpgrade)),
            (vec![("connection", &[])], Err(HandshakeError::NoUpgrade)),
            (vec![("upgrade", &["websockets"])], Err(HandshakeError::NoUpgrade)),
            (vec![("upgrade", &[])], Err(HandshakeError::NoUpgrade)),
            (vec![("host", &[])], Err(HandshakeError::Host)),
            (vec![("host", &["x", "y"])], Err(HandshakeError::Host)),
            (vec![("sec-websocket-version", &["8"])], Err(HandshakeError::Version)),
            (vec![("sec-websocket-version", &["14"]), ("sec-websocket-key", &["x"])], Err(HandshakeError::Version)),
            (vec![("sec-websocket-version", &[])], Err(HandshakeError::Version)),
            (vec![("sec-websocket-key", &[])], Err(HandshakeError::Key)),
            (vec![("sec-websocket-key", &[""])], Err(HandshakeError::Key)),
            (vec![("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZQ"])], Err(HandshakeError::Key)),
            (vec![("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZR=="])], Ok(())),
            (vec![("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="])], Err(HandshakeError::Key)),
            (vec![("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZSB0d28="])], Err(HandshakeError::Key)),
            (vec![("sec-websocket-key", &["dGhlIHNhbXBsZS!ub25jZQ=="])], Err(HandshakeError::Key)),
        ] {
            assert_eq!(check_with(&changes, &[]), expected, "{changes:?}");
        }
    }

    #[test]
    fn a_list_of_origins_rejects_other_pages_but_no_programs() {
        let list = ["https://et.example.com"];
        for (origin, origins, expected) in [
            (&["https://evil.example"][..], &[][..], Ok(())),
            (&["https://et.example.com"], &list, Ok(())),
            (&["https://ET.example.com"], &list, Ok(())),
            (&[], &list, Ok(())),
            (&["https://evil.example"], &list, Err(HandshakeError::Origin)),
            (&["https://et.example.com.evil.example"], &list, Err(HandshakeError::Origin)),
            (&["https://et.example.com", "https://evil.example"], &list, Err(HandshakeError::Origin)),
            (&["null"], &list, Err(HandshakeError::Origin)),
        ] {
            assert_eq!(check_with(&[("origin", origin)], origins), expected, "{origin:?}");
        }
    }
}
