//! The requests' paths and bodies. Nothing in them asks for a part of `_source`: that would make
//! the store write documents anew.

use chrono::DateTime;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    http::Request,
    layout::{Distribution, IndexLayout, TimeField, Version},
};

/// Keeps a scroll for this long after each page.
pub const SCROLL_KEEP_ALIVE: &str = "1m";

/// A half-open range of milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub start_ms: i64,
    /// Exclusive.
    pub end_ms: i64,
}

/// Options of a search that make a missing index or shard an error.
fn search_options(version: Version) -> String {
    let mut options = "ignore_unavailable=false&allow_no_indices=false".to_owned();
    if version.is_from(6, 3) {
        options.push_str("&allow_partial_search_results=false");
    }
    // Otherwise frozen indices are left out.
    if version.distribution == Distribution::Elasticsearch && version.is_from(6, 6) && version.major < 8 {
        options.push_str("&ignore_throttled=false");
    }
    options
}

/// The earliest `rows` documents of devices in a window. `copy` selects the copies of the shards:
/// equal values read the same copies.
pub fn search(layout: &IndexLayout, devices: &[Uuid], window: Window, rows: u32, copy: Uuid) -> Request {
    let path = format!("/{}/_search?preference={copy}&{}", layout.index, search_options(layout.version));
    Request::post(path, search_body(layout, devices, window, rows).to_string())
}

/// Begins a scroll over the documents of devices in a window.
pub fn scroll(layout: &IndexLayout, devices: &[Uuid], window: Window, rows: u32, copy: Uuid) -> Request {
    let mut request = search(layout, devices, window, rows, copy);
    request.path.push_str("&scroll=");
    request.path.push_str(SCROLL_KEEP_ALIVE);
    request
}

/// The next page of a scroll.
pub fn next_of_scroll(scroll_id: &str) -> Request {
    Request::post("/_search/scroll", json!({"scroll": SCROLL_KEEP_ALIVE, "scroll_id": scroll_id}).to_string())
}

/// Releases what the store keeps for a scroll.
pub fn clear_scroll(scroll_id: &str) -> Request {
    let body = json!({"scroll_id": [scroll_id]}).to_string();
    Request { method: reqwest::Method::DELETE, ..Request::post("/_search/scroll", body) }
}

/// Counts the documents of devices in a window.
pub fn count(layout: &IndexLayout, devices: &[Uuid], window: Window, copy: Uuid) -> Request {
    let path = format!("/{}/_count?preference={copy}&ignore_unavailable=false&allow_no_indices=false", layout.index);
    Request::post(path, json!({"query": filter(layout, devices, window)}).to_string())
}

/// Any document.
pub fn any(layout: &IndexLayout) -> Request {
    let path = format!("/{}/_search?{}", layout.index, search_options(layout.version));
    let body = json!({"size": 1, "query": {"exists": {"field": layout.time}}});
    Request::post(path, body.to_string())
}

/// A search without documents, for aggregations.
pub fn aggregate(layout: &IndexLayout, devices: &[Uuid], window: Window, aggregations: &Value) -> Request {
    let path = format!("/{}/_search?{}", layout.index, search_options(layout.version));
    let body = json!({"size": 0, "query": filter(layout, devices, window), "aggs": aggregations});
    Request::post(path, body.to_string())
}

/// The body of a search for the earliest documents.
pub fn search_body(layout: &IndexLayout, devices: &[Uuid], window: Window, rows: u32) -> Value {
    // An index without the field has no document that the filter finds.
    let order = match layout.time_field {
        TimeField::Number => json!({"order": "asc", "unmapped_type": "long"}),
        TimeField::Date => json!({"order": "asc", "unmapped_type": "date"}),
        // Milliseconds in all indices.
        TimeField::DateNanos => json!({"order": "asc", "unmapped_type": "date", "numeric_type": "date"}),
    };
    let (query, sort) = (filter(layout, devices, window), json!([{&layout.time: order}]));
    // Older ones count all, and refuse the option.
    if layout.version.is_from(7, 0) {
        json!({"size": rows, "query": query, "sort": sort, "track_total_hits": true})
    } else {
        json!({"size": rows, "query": query, "sort": sort})
    }
}

fn filter(layout: &IndexLayout, devices: &[Uuid], window: Window) -> Value {
    let ids: Vec<String> = devices.iter().map(Uuid::to_string).collect();
    let of_field = |field: &String| match ids.as_slice() {
        [id] => json!({"term": {field: id}}),
        ids => json!({"terms": {field: ids}}),
    };
    let device = match layout.device_fields.as_slice() {
        [field] => of_field(field),
        fields => json!({"bool": {"should": fields.iter().map(of_field).collect::<Vec<_>>(), "minimum_should_match": 1}}),
    };
    json!({"bool": {"filter": [device, {"range": {&layout.time: range(layout.time_field, window)}}]}})
}

/// The condition on the time field.
pub fn range(field: TimeField, window: Window) -> Value {
    let [start, end] = bounds(field, window);
    match field {
        TimeField::Number => json!({"gte": start, "lt": end}),
        TimeField::Date | TimeField::DateNanos => json!({"gte": start, "lt": end, "format": "strict_date_optional_time"}),
    }
}

/// Start and end of a window, as the time field is compared.
pub fn bounds(field: TimeField, window: Window) -> [Value; 2] {
    [window.start_ms, window.end_ms].map(|ms| match field {
        TimeField::Number => ms.into(),
        // As text: some versions take no negative milliseconds.
        TimeField::Date => time_text(ms).into(),
        TimeField::DateNanos => time_text(ms.clamp(0, MAX_NANOS_MS)).into(),
    })
}

/// The last millisecond that nanoseconds since 1970 in 64 bits reach.
const MAX_NANOS_MS: i64 = i64::MAX / 1_000_000;

fn time_text(ms: i64) -> String {
    // Years have four digits: requests have no others.
    DateTime::from_timestamp_millis(ms).unwrap_or_default().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
