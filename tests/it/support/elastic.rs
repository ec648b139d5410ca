//! An index of a real Elasticsearch or `OpenSearch`, one for each test.

use std::{fmt::Write, sync::Arc};

use chrono::{DateTime, SecondsFormat};
use reqwest::{Client, Method};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use uuid::Uuid;

use super::{Reading, doc};

/// An index, which is deleted when the last clone is dropped.
#[derive(Clone)]
pub struct ElasticIndex {
    pub server: String,
    pub name: String,
    _guard: Arc<Guard>,
}

struct Guard {
    server: String,
    names: String,
}

/// A document, with its id and exact text.
#[derive(Debug, Clone)]
pub struct Document {
    pub id: String,
    pub text: String,
}

/// The mapping of readings.
pub fn mapping() -> Value {
    json!({"deviceId": {"type": "keyword"}, "triggerTime": {"type": "date"}, "data": {"enabled": false, "type": "object"}})
}

/// Sends a request to a server; panics if it is refused.
pub async fn ask(server: &str, method: Method, path: &str, body: Option<String>) -> Value {
    let (status, answer) = try_ask(server, method.clone(), path, body).await;
    assert!(status < 300, "{method} {path}: {status} {answer}");
    answer
}

/// Sends a request to a server; returns status and answer.
pub async fn try_ask(server: &str, method: Method, path: &str, body: Option<String>) -> (u16, Value) {
    let (status, text) = send(server, method, path, body).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn send(server: &str, method: Method, path: &str, body: Option<String>) -> (u16, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kind = if path.contains("_bulk") { "application/x-ndjson" } else { "application/json" };
    let mut request = Client::new().request(method, format!("{server}{path}")).header("content-type", kind);
    if let Some(body) = body {
        request = request.body(body);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// The major version of a server that wants a type in paths, or none.
async fn document_type(server: &str) -> &'static str {
    let root = ask(server, Method::GET, "/", None).await;
    let number = root["version"]["number"].as_str().unwrap().to_owned();
    let is_opensearch = root["version"]["distribution"] == "opensearch";
    if !is_opensearch && (number.starts_with("5.") || number.starts_with("6.")) { "doc" } else { "_doc" }
}

impl ElasticIndex {
    pub async fn new(server: &str) -> Self {
        Self::with_mapping(server, &mapping()).await
    }

    pub async fn with_mapping(server: &str, properties: &Value) -> Self {
        let name = format!("t_{}", Uuid::new_v4().simple());
        let guard = Guard { server: server.to_owned(), names: format!("{name}*") };
        let index = Self { server: server.to_owned(), name: name.clone(), _guard: Arc::new(guard) };
        index.create(&name, &json!({"properties": properties})).await;
        index
    }

    /// Creates an index, whose name must begin with this one's.
    pub async fn create(&self, name: &str, mappings: &Value) {
        let of_type = document_type(&self.server).await;
        let mappings = if of_type == "doc" { json!({of_type: mappings}) } else { mappings.clone() };
        let settings = json!({"number_of_replicas": 0, "number_of_shards": 2, "refresh_interval": -1});
        let body = json!({"settings": settings, "mappings": mappings}).to_string();
        ask(&self.server, Method::PUT, &format!("/{name}"), Some(body)).await;
    }

    /// Whether paths have the type of documents.
    pub async fn is_typed(&self) -> bool {
        document_type(&self.server).await == "doc"
    }

    /// Whether the server knows times in nanoseconds.
    pub async fn has_nanoseconds(&self) -> bool {
        let root = ask(&self.server, Method::GET, "/", None).await;
        let number = root["version"]["number"].as_str().unwrap_or_default().to_owned();
        root["version"]["distribution"] == "opensearch" || !(number.starts_with("5.") || number.starts_with("6."))
    }

    /// The URL that the service reads from.
    pub fn url(&self) -> String {
        format!("{}/{}", self.server, self.name)
    }

    pub async fn index(&self, documents: &[Document]) {
        self.index_into(&self.name, documents).await;
    }

    /// Writes documents, each as it is; they can be found at once.
    pub async fn index_into(&self, name: &str, documents: &[Document]) {
        let of_type = document_type(&self.server).await;
        for documents in documents.chunks(5_000) {
            let mut body = String::new();
            for Document { id, text } in documents {
                writeln!(body, "{}\n{text}", json!({"index": {"_id": id}})).unwrap();
            }
            let path = format!("/{name}/{}_bulk?refresh=true", if of_type == "doc" { "doc/" } else { "" });
            let answer = ask(&self.server, Method::POST, &path, Some(body)).await;
            assert_eq!(answer["errors"], false, "{}", answer["items"][0]);
        }
    }

    pub async fn add(&self, rows: &[Reading]) {
        let documents: Vec<_> = rows
            .iter()
            .map(|row| Document { id: row_key(row.id), text: text(row.device, row.time_ms, row.doc.as_deref()) })
            .collect();
        self.index(&documents).await;
    }

    /// The stored documents of a device, each as it was indexed, in the order of time and key.
    pub async fn docs(&self, device: Uuid) -> Vec<String> {
        let query = json!({"size": 5_000, "query": {"term": {"deviceId": device}}, "sort": ["triggerTime"]}).to_string();
        let (mut path, mut body) = (format!("/{}/_search?scroll=1m", self.name), query);
        let mut hits: Vec<StoredHit> = Vec::new();
        loop {
            let (status, text) = send(&self.server, Method::POST, &path, Some(body)).await;
            let page: StoredPage = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} {error}: {text}"));
            if page.hits.hits.is_empty() {
                let clear = json!({"scroll_id": [page.scroll_id]}).to_string();
                ask(&self.server, Method::DELETE, "/_search/scroll", Some(clear)).await;
                break;
            }
            hits.extend(page.hits.hits);
            (path, body) = ("/_search/scroll".to_owned(), json!({"scroll": "1m", "scroll_id": page.scroll_id}).to_string());
        }
        hits.sort_by(|one, other| (one.sort[0], &one.id).cmp(&(other.sort[0], &other.id)));
        // As in a table, what has no readable document does not count.
        hits.into_iter().map(|hit| hit.source.get().to_owned()).filter(|text| !text.contains(INVALID_DATA)).collect()
    }
}

#[derive(Deserialize)]
struct StoredPage {
    #[serde(rename = "_scroll_id")]
    scroll_id: String,
    hits: StoredHits,
}

#[derive(Deserialize)]
struct StoredHits {
    hits: Vec<StoredHit>,
}

#[derive(Deserialize)]
struct StoredHit {
    #[serde(rename = "_id")]
    id: String,
    #[serde(rename = "_source")]
    source: Box<RawValue>,
    sort: [i64; 1],
}

/// The id of a document: of equal length, so that texts are in the order of numbers.
pub fn row_key(id: i64) -> String {
    format!("r{id:010}")
}

/// What ET cannot read, in place of documents that no search would find: none, or without a device.
const INVALID_DATA: &str = r#""data": []"#;

/// The document of a reading, which has the time and the device.
pub fn text(device: Uuid, time_ms: i64, document: Option<&str>) -> String {
    const ANY_TIME: &str = "2019-01-11T21:03:00+08:00";
    let time = DateTime::from_timestamp_millis(time_ms).unwrap().to_rfc3339_opts(SecondsFormat::Millis, true);
    let fields: Value = document.and_then(|document| serde_json::from_str(document).ok()).unwrap_or_default();
    let own_time = fields["triggerTime"].as_str().and_then(|own| DateTime::parse_from_rfc3339(own).ok());
    match document {
        Some(document) if document.contains(ANY_TIME) && document.contains("deviceId") => document.replace(ANY_TIME, &time),
        Some(document) if own_time.is_some_and(|own| own.timestamp_millis() == time_ms) => document.to_owned(),
        _ => format!(r#"{{"data": {{{INVALID_DATA}}}, "deviceId": "{device}", "triggerTime": "{time}"}}"#),
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (server, names) = (std::mem::take(&mut self.server), std::mem::take(&mut self.names));
        // The test's runtime may have ended. What is left does no harm: names are unique.
        let delete = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            let request = Client::new().delete(format!("{server}/{names}?expand_wildcards=all"));
            runtime.block_on(async { tokio::time::timeout(std::time::Duration::from_secs(10), request.send()).await.ok() })
        };
        let _ = std::thread::spawn(delete).join();
    }
}
