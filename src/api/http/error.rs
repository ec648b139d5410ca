//! Errors of the API, as problem details (RFC 9457).

use warp::{
    Reply,
    http::{HeaderValue, Method, StatusCode, header},
    reply::Response,
};

use crate::{
    api::auth::AuthError,
    protocol::{
        RequestError,
        http::{PREFIX, Problem},
    },
};

/// Why a request is refused.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: String,
    field: Option<String>,
    /// A further header that the status requires.
    header: Option<(header::HeaderName, &'static str)>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), field: None, header: None }
    }

    #[cfg(test)]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The code for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    pub fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_path", "there is no such endpoint; docs/api.md lists them")
    }

    pub fn task_id(text: &str) -> Self {
        let shown: String = text.chars().take(60).collect();
        let detail = format!("taskId is {shown:?}, which is not a UUID; it is the taskId that a submission is answered with");
        Self { field: Some("taskId".to_owned()), ..Self::new(StatusCode::BAD_REQUEST, "invalid_field", detail) }
    }

    pub fn thing_id(text: &str) -> Self {
        let shown: String = text.chars().take(60).collect();
        let detail = format!("thingId is {shown:?}, which is not a UUID; GET {PREFIX}/things lists the things");
        Self { field: Some("thingId".to_owned()), ..Self::new(StatusCode::BAD_REQUEST, "invalid_field", detail) }
    }

    pub fn instance_id(text: &str) -> Self {
        let shown: String = text.chars().take(60).collect();
        let detail = format!("instanceId is {shown:?}, which is not a UUID; GET {PREFIX}/service lists the instances");
        Self { field: Some("instanceId".to_owned()), ..Self::new(StatusCode::BAD_REQUEST, "invalid_field", detail) }
    }

    pub fn method(method: &Method, allow: &'static str) -> Self {
        let detail = format!("{method} is not possible here; possible are {allow}");
        let header = Some((header::ALLOW, allow));
        Self { header, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail) }
    }

    pub fn auth(error: AuthError) -> Self {
        let (status, code) = match error {
            AuthError::Missing => (StatusCode::UNAUTHORIZED, "missing_token"),
            AuthError::Malformed => (StatusCode::UNAUTHORIZED, "malformed_token"),
            AuthError::Wrong => (StatusCode::UNAUTHORIZED, "wrong_token"),
        };
        let header = Some((header::WWW_AUTHENTICATE, "Bearer realm=\"data-patch\""));
        Self { header, ..Self::new(status, code, error.to_string()) }
    }

    pub fn origin() -> Self {
        let detail = "pages of this Origin may not use the service (server.allowed_origins)";
        Self::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail)
    }

    pub fn body_too_large(limit: usize) -> Self {
        let detail = format!("the body has more than {limit} bytes (server.max_message_bytes); split the request");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    }

    pub fn incomplete_body() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "incomplete_body", "the body ended early; send the request again")
    }

    pub fn media_type(found: &str) -> Self {
        let shown: String = found.chars().take(60).collect();
        let detail = format!("the body is {shown:?}; send JSON, with the header Content-Type: application/json");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    pub fn not_utf8() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "not_json", "the body is not UTF-8; send one JSON object")
    }

    /// A parameter, header or field that is wrong.
    pub fn invalid(field: &str, found: &str, expected: &str) -> Self {
        let shown: String = found.chars().take(80).collect();
        let detail = format!("{field} is {shown:?}; {expected}");
        Self { field: Some(field.to_owned()), ..Self::new(StatusCode::BAD_REQUEST, "invalid_field", detail) }
    }

    pub fn unknown_parameter(detail: String, name: &str) -> Self {
        let field = Some(name.chars().take(60).collect());
        Self { field, ..Self::new(StatusCode::BAD_REQUEST, "unknown_field", detail) }
    }

    pub fn response(self) -> Response {
        let Self { status, code, detail, field, header } = self;
        let problem = Problem {
            r#type: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail,
            code: code.to_owned(),
            field,
        };
        let mut response = warp::reply::with_status(warp::reply::json(&problem), status).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        use RequestError as E;
        let status = match &error {
            E::WrongToken => StatusCode::UNAUTHORIZED,
            E::Forbidden { .. } => StatusCode::FORBIDDEN,
            E::UnknownTask(_) | E::UnknownInstance(_) => StatusCode::NOT_FOUND,
            E::RequestIdConflict { .. } | E::NotFinished(_) | E::NothingToRetry(_) => StatusCode::CONFLICT,
            E::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            E::ShuttingDown | E::QueueUnavailable(_) | E::SourceUnavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            E::NotJson(_)
            | E::Binary
            | E::Shape
            | E::Missing { .. }
            | E::Invalid { .. }
            | E::UnknownField(_)
            | E::RepeatedField(_)
            | E::AfterTheEnd { .. } => StatusCode::BAD_REQUEST,
        };
        let field = match &error {
            E::Missing { field, .. } => Some((*field).to_owned()),
            E::Invalid { field, .. } => Some(field.clone()),
            E::AfterTheEnd { .. } => Some("after".to_owned()),
            _ => None,
        };
        let header = match status {
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
            StatusCode::TOO_MANY_REQUESTS => Some((header::RETRY_AFTER, "5")),
            _ => None,
        };
        Self { field, header, ..Self::new(status, error.code(), error.to_string()) }
    }
}
