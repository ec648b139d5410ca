//! What a cluster answers when it does not answer a request, and whether a retry helps.

use serde::Deserialize;

use crate::source::SourceError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0}")]
    Unreachable(String),
    /// A certificate is not accepted: ours by the server, or the server's by us.
    #[error("{0}")]
    Untrusted(String),
    #[error("{0}")]
    Refused(Refusal),
    #[error("the answer is larger than expected")]
    TooLarge,
}

/// An answer with the status of an error.
#[derive(Debug, thiserror::Error)]
#[error("{status} {kind}: {reason}")]
pub struct Refusal {
    pub status: u16,
    /// The store's name of the error, such as `index_not_found_exception`.
    pub kind: String,
    pub reason: String,
}

#[derive(Deserialize)]
struct Answer {
    error: AnswerError,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AnswerError {
    Cause(Cause),
    Text(String),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cause {
    r#type: String,
    reason: Option<String>,
    #[serde(rename = "root_cause")]
    roots: Vec<Cause>,
    failed_shards: Vec<FailedShard>,
    caused_by: Option<Box<Cause>>,
}

#[derive(Deserialize)]
pub(super) struct FailedShard {
    shard: Option<i64>,
    index: Option<String>,
    reason: Option<Cause>,
}

impl FailedShard {
    /// The shard and its index, and why it failed.
    pub fn describe(&self) -> String {
        let reason = self.reason.as_ref().map(|cause| cause.deepest().text());
        let shard = self.shard.map_or_else(|| "a shard".to_owned(), |number| format!("shard {number}"));
        let index = self.index.as_deref().map_or_else(String::new, |index| format!(" of {index}"));
        format!("{shard}{index}: {}", reason.as_deref().unwrap_or("no reason given"))
    }
}

impl Cause {
    /// The cause that says most: of the first shard, or at the root.
    fn deepest(&self) -> &Self {
        if let Some(of_shard) = self.failed_shards.first().and_then(|shard| shard.reason.as_ref()) {
            return of_shard.deepest();
        }
        if let Some(root) = self.roots.first().filter(|root| !root.r#type.is_empty()) {
            return root.deepest();
        }
        self.caused_by.as_ref().map_or(self, |cause| cause.deepest())
    }

    fn text(&self) -> String {
        format!("{}: {}", self.r#type, self.reason.as_deref().unwrap_or("no reason given"))
    }
}

/// Errors of a node that is away, or of a shard that is not started: while a node leaves or comes
/// back they have the status 500 or 404.
const LOST_NODE_OR_SHARD: [&str; 14] = [
    "node_disconnected_exception",
    "node_not_connected_exception",
    "node_closed_exception",
    "connect_transport_exception",
    "send_request_transport_exception",
    "receive_timeout_transport_exception",
    "no_shard_available_action_exception",
    "unavailable_shards_exception",
    "shard_not_found_exception",
    "illegal_index_shard_state_exception",
    "index_shard_not_started_exception",
    "index_shard_recovering_exception",
    "index_shard_closed_exception",
    "already_closed_exception",
];

/// The reason that Elasticsearch 5.6 gives for a refused search (400) while the cluster has no data
/// node: it derives this number from how many there are.
const NO_DATA_NODE: &str = "maxConcurrentShardRequests must be >= 1";

impl Refusal {
    pub fn new(status: u16, body: &[u8]) -> Self {
        let (kind, reason) = match serde_json::from_slice(body) {
            Ok(Answer { error: AnswerError::Cause(cause) }) => {
                let deepest = cause.deepest();
                (deepest.r#type.clone(), deepest.reason.clone().unwrap_or_default())
            }
            Ok(Answer { error: AnswerError::Text(text) }) => (String::new(), text),
            // A proxy in front of the store.
            Err(_) => {
                (String::new(), String::from_utf8_lossy(body.get(..body.len().min(200)).unwrap_or_default()).trim().to_owned())
            }
        };
        // A sentence follows.
        Self { status, kind, reason: reason.trim_end_matches('.').to_owned() }
    }

    /// Whether another node, or the same one later, may answer.
    pub fn is_outage(&self) -> bool {
        matches!(self.status, 408 | 502 | 503 | 504)
            || LOST_NODE_OR_SHARD.contains(&self.kind.as_str())
            || self.reason == NO_DATA_NODE
    }

    /// Whether the store has no room for the request now; a smaller one may succeed.
    pub fn is_overload(&self) -> bool {
        self.status == 429 || self.kind == "circuit_breaking_exception" || self.kind.contains("rejected_execution")
    }

    /// Whether shards have no copy that is available.
    pub fn is_shard_missing(&self) -> bool {
        self.status == 503 && (self.kind.starts_with("search_phase") || self.kind.contains("shard"))
    }

    /// Whether a page is larger than an index allows (`index.max_result_window`).
    pub fn is_window_too_large(&self) -> bool {
        self.status == 400 && self.reason.contains("max_result_window")
            || self.reason.contains("Result window is too large")
            || self.reason.contains("Batch size is too large")
    }
}

impl From<Refusal> for SourceError {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal.status {
            _ if refusal.is_outage() || refusal.is_overload() => Self::Unavailable(text),
            // As a refused password of a database: it may be corrected, and nothing is wrong with the
            // rows.
            401 => Self::Unavailable(format!("{text}. Give it the credentials of a user who may read the index (iota.readings)")),
            403 if !refusal.kind.contains("closed") => Self::Unavailable(format!(
                "{text}. The user of iota.readings needs the rights read and view_index_metadata on the index, and monitor on the cluster"
            )),
            _ if refusal.kind == "index_closed_exception" => Self::Rejected(format!(
                "{text}: an index of iota.readings.url is closed. Open it (POST /INDEX/_open), or name others"
            )),
            // Not from the store: a proxy that has no route to it now.
            404 if refusal.kind.is_empty() => Self::Unknown(text),
            404 => Self::Mapping(format!("{text}. Name an existing index, alias or pattern in iota.readings.url")),
            400..500 => Self::Rejected(text),
            _ => Self::Unknown(text),
        }
    }
}

impl From<HttpError> for SourceError {
    fn from(error: HttpError) -> Self {
        match error {
            // A wrong certificate stays wrong.
            HttpError::Untrusted(text) => Self::Unknown(text),
            HttpError::Unreachable(text) => Self::Unavailable(text),
            HttpError::Refused(refusal) => refusal.into(),
            HttpError::TooLarge => Self::Rejected(
                "an answer of the store of readings is larger than 64 MiB, or a document larger than 101 MiB".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_where_each_version_puts_it() {
        for (body, kind, reason) in [
            (
                r#"{"error":{"root_cause":[{"type":"index_not_found_exception","reason":"no such index"}],"type":"index_not_found_exception","reason":"no such index"},"status":404}"#,
                "index_not_found_exception",
                "no such index",
            ),
            (
                r#"{"error":{"root_cause":[],"type":"search_phase_execution_exception","reason":"all shards failed","failed_shards":[{"index":"raw","reason":{"type":"query_shard_exception","reason":"No mapping found"}}]}}"#,
                "query_shard_exception",
                "No mapping found",
            ),
            (r#"{"error":"no handler found","status":400}"#, "", "no handler found"),
            ("<html>Bad Gateway</html>", "", "<html>Bad Gateway</html>"),
        ] {
            let refusal = Refusal::new(400, body.as_bytes());
            assert_eq!((refusal.kind.as_str(), refusal.reason.as_str()), (kind, reason));
        }
    }

    #[test]
    fn an_outage_or_an_overload_is_retried() {
        for (status, kind) in [(503, ""), (429, ""), (500, "circuit_breaking_exception"), (502, "")] {
            let refusal = Refusal { status, kind: kind.to_owned(), reason: String::new() };
            assert!(matches!(SourceError::from(refusal), SourceError::Unavailable(_)), "{status} {kind}");
        }
        let body = r#"{"error":{"root_cause":[{"type":"illegal_argument_exception","reason":"maxConcurrentShardRequests must be >= 1"}],"type":"illegal_argument_exception","reason":"maxConcurrentShardRequests must be >= 1"},"status":400}"#;
        assert!(matches!(SourceError::from(Refusal::new(400, body.as_bytes())), SourceError::Unavailable(_)));
        let refusal = Refusal { status: 400, kind: "parsing_exception".to_owned(), reason: String::new() };
        assert!(matches!(SourceError::from(refusal), SourceError::Rejected(_)));
    }
}
