//! Sends spans to an OTLP receiver: protobuf over HTTP, as the OpenTelemetry Protocol 1.x describes
//! it (<https://opentelemetry.io/docs/specs/otlp/>).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode, Uri,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span, status},
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    TraceMetrics,
    traces::{Attributes, SpanData, Value},
};
use crate::config;

/// The most spans of a request.
const MAX_BATCH: usize = 512;
/// How long a span waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts on a batch, if the receiver says that it may be sent again.
const MAX_ATTEMPTS: u32 = 3;
const RETRY_DELAY: Duration = Duration::from_secs(1);

#[derive(Clone)]
enum Http {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

/// Receives spans and sends them.
pub struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    http: Http,
    url: Uri,
    headers: HeaderMap,
    resource: Resource,
    metrics: TraceMetrics,
    /// The last batch was not accepted: this has been logged.
    is_failing: bool,
}

/// Why a batch was not accepted.
struct Refused {
    reason: String,
    may_retry: bool,
}

impl Exporter {
    /// # Errors
    /// The endpoint is not a URL, or the certificates of the system cannot be read.
    pub fn new(
        config: &config::Telemetry,
        instance: &str,
        spans: mpsc::Receiver<SpanData>,
        metrics: TraceMetrics,
    ) -> anyhow::Result<Self> {
        let url: Uri = format!("{}/v1/traces", config.endpoint.trim_end_matches('/')).parse().context("telemetry.endpoint")?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(REQUEST_TIMEOUT));
        let http = if url.scheme_str() == Some("https") {
            connector.enforce_http(false);
            let builder =
                HttpsConnectorBuilder::new().with_native_roots().context("the certificates of the system cannot be read")?;
            Http::Tls(Client::builder(TokioExecutor::new()).build(builder.https_only().enable_http1().wrap_connector(connector)))
        } else {
            Http::Plain(Client::builder(TokioExecutor::new()).build(connector))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in config.headers.pairs() {
            // Checked with the configuration.
            if let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let attributes: Attributes = vec![
            ("service.name", config.service_name.as_str().into()),
            ("service.version", env!("CARGO_PKG_VERSION").into()),
            ("service.instance.id", instance.into()),
        ];
        let resource = Resource { attributes: key_values(attributes), ..Resource::default() };
        Ok(Self { spans, http, url, headers, resource, metrics, is_failing: false })
    }

    /// Sends spans until `stop`, and then what is left, once.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            let received = tokio::select! {
                biased;
                received = self.spans.recv_many(&mut batch, MAX_BATCH) => received,
                () = stop.cancelled() => return,
            };
            if received == 0 {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(BATCH_DELAY) => {}
                () = stop.cancelled() => {}
            }
            while batch.len() < MAX_BATCH
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            self.export(std::mem::take(&mut batch), &stop).await;
        }
    }

    async fn export(&mut self, spans: Vec<SpanData>, stop: &CancellationToken) {
        let count = spans.len() as u64;
        let request = self.request(spans);
        let body = Bytes::from(request.encode_to_vec());
        let mut attempt = 1;
        loop {
            match self.post(body.clone()).await {
                Ok(()) => {
                    self.metrics.exported.inc_by(count);
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!(endpoint = %self.url, "traces are accepted again");
                    }
                    return;
                }
                Err(Refused { may_retry: true, .. }) if attempt < MAX_ATTEMPTS && !stop.is_cancelled() => {
                    tokio::select! {
                        () = tokio::time::sleep(RETRY_DELAY * 2_u32.pow(attempt - 1)) => {}
                        () = stop.cancelled() => {}
                    }
                    attempt += 1;
                }
                Err(Refused { reason, .. }) => {
                    self.metrics.dropped.inc_by(count);
                    if !std::mem::replace(&mut self.is_failing, true) {
                        tracing::warn!(endpoint = %self.url, reason, "traces are not accepted and are dropped until they are; tasks are not affected");
                    }
                    return;
                }
            }
        }
    }

    async fn post(&self, body: Bytes) -> Result<(), Refused> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = self.headers.clone();
        let sending = async {
            let response = match &self.http {
                Http::Plain(client) => client.request(request).await,
                Http::Tls(client) => client.request(request).await,
            };
            let response = response.map_err(|error| error.to_string())?;
            let status = response.status();
            // Read, so that the connection can be used again.
            response.into_body().collect().await.map_err(|error| error.to_string())?;
            Ok::<_, String>(status)
        };
        let refused = |reason, may_retry| Err(Refused { reason, may_retry });
        match tokio::time::timeout(REQUEST_TIMEOUT, sending).await {
            Ok(Ok(status)) if status.is_success() => Ok(()),
            // The statuses that the protocol names.
            Ok(Ok(status)) => refused(
                format!("it answers {status}"),
                [
                    StatusCode::TOO_MANY_REQUESTS,
                    StatusCode::BAD_GATEWAY,
                    StatusCode::SERVICE_UNAVAILABLE,
                    StatusCode::GATEWAY_TIMEOUT,
                ]
                .contains(&status),
            ),
            Ok(Err(error)) => refused(error, true),
            Err(_) => refused(format!("it does not answer within {REQUEST_TIMEOUT:?}"), true),
        }
    }

    fn request(&self, spans: Vec<SpanData>) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope { name: env!("CARGO_PKG_NAME").to_owned(), ..InstrumentationScope::default() };
        let spans = spans.into_iter().map(span_of).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: String::new() }];
        let resource = Some(self.resource.clone());
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource, scope_spans, schema_url: String::new() }] }
    }
}

fn span_of(data: SpanData) -> Span {
    let SpanData { trace, id, parent, name, start, end, attributes, events, dropped_events, error } = data;
    let event = |event: super::traces::SpanEvent| span::Event {
        time_unix_nano: nanos(event.at),
        name: event.name.to_owned(),
        attributes: key_values(event.attributes),
        dropped_attributes_count: 0,
    };
    Span {
        trace_id: Uuid::into_bytes(trace).to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        name: name.to_owned(),
        kind: span::SpanKind::Internal.into(),
        start_time_unix_nano: nanos(start),
        end_time_unix_nano: nanos(end),
        attributes: key_values(attributes),
        events: events.into_iter().map(event).collect(),
        dropped_events_count: dropped_events,
        status: error.map(|message| Status { message, code: status::StatusCode::Error.into() }),
        ..Span::default()
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn key_values(attributes: Attributes) -> Vec<KeyValue> {
    let value = |value| match value {
        Value::Text(text) => any_value::Value::StringValue(text),
        Value::Number(number) => any_value::Value::IntValue(number),
    };
    let pair = |(name, found): (&'static str, Value)| KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value(found)) }),
        ..KeyValue::default()
    };
    attributes.into_iter().map(pair).collect()
}
