//! Counts by time, and samples of documents, for previews. The store counts by its indices, so that
//! counts are exact.

use std::fmt::Write;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use uuid::Uuid;

use super::{
    Cluster,
    http::Request,
    layout::{IndexLayout, TimeField},
    query::{self, Window},
    response::{Page, Shards, parse},
    window,
};
use crate::source::{
    SourceError, StoredRange,
    preview::{CountedGroup, Edges, ProbedGroup, SamplePoint},
};

/// Buckets in one answer: the smallest limit of any version (`search.max_buckets`).
const MAX_BUCKETS: usize = 10_000;
/// Searches in one request.
const MAX_SEARCHES: usize = 100;

#[derive(Deserialize)]
struct Answer {
    timed_out: bool,
    #[serde(rename = "_shards")]
    shards: Shards,
    aggregations: Value,
}

/// Counts the rows of several devices by bucket.
pub async fn bucket_counts(
    cluster: &Cluster,
    layout: &IndexLayout,
    devices: &[Uuid],
    edges: &Edges,
) -> Result<Vec<CountedGroup>, SourceError> {
    let windows = places(edges);
    let mut groups = Vec::new();
    let devices_of_answer = (MAX_BUCKETS / (windows.len() + 1)).max(1);
    for (first, devices) in (0..).step_by(devices_of_answer).zip(devices.chunks(devices_of_answer)) {
        for (n, device) in (first..).zip(count(cluster, layout, devices, &window(&edges.range), &windows).await?) {
            let counted = |(place, counted): (i64, Counted)| {
                let (rows, times) = (counted.rows, counted.times_us?);
                Some(CountedGroup { n, place, rows, first: times.0, last: times.1 })
            };
            groups.extend((0..).zip(device).filter_map(counted));
        }
    }
    Ok(groups)
}

/// Counts the rows of a device in each of several ranges.
pub async fn probe(
    cluster: &Cluster,
    layout: &IndexLayout,
    device: Uuid,
    ranges: &[StoredRange],
) -> Result<Vec<(usize, ProbedGroup)>, SourceError> {
    let windows: Vec<_> = ranges.iter().map(window).collect();
    let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return Ok(Vec::new()) };
    let all = Window { start_ms: first.start_ms, end_ms: last.end_ms };
    let counted = count(cluster, layout, &[device], &all, &windows).await?.pop().unwrap_or_default();
    let group = |Counted { rows, times_us }: Counted| {
        let (first, last) = times_us.unzip();
        ProbedGroup { rows: i64::try_from(rows).unwrap_or(i64::MAX), first, reached: last, last }
    };
    Ok(counted.into_iter().map(group).enumerate().collect())
}

/// Reads the first documents from each of several points.
pub async fn sample(
    cluster: &Cluster,
    layout: &IndexLayout,
    points: &[SamplePoint],
    rows: u32,
    on_row: &mut (dyn FnMut(usize, Option<Bytes>) + Send),
) -> Result<(), SourceError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        responses: Vec<&'a RawValue>,
    }
    for (first, points) in (0..).step_by(MAX_SEARCHES).zip(points.chunks(MAX_SEARCHES)) {
        let mut searches = String::new();
        for point in points {
            let window = window(&StoredRange { from: Some(point.from_us), to: point.to_us, holes: Vec::new() });
            let search = query::search_body(layout, &[point.device], window, rows);
            let _ = writeln!(searches, "{}\n{search}", json!({"index": layout.index}));
        }
        let body = cluster.http.send(&Request::post("/_msearch", searches)).await?;
        let answer: Answer<'_> = parse(&body)?;
        for (number, response) in (first..).zip(answer.responses) {
            let page = Page::read(&Bytes::copy_from_slice(response.get().as_bytes()))?;
            for hit in &page.hits {
                on_row(number, page.document(hit));
            }
        }
    }
    Ok(())
}

/// Rows of a window, and the times of the first and last one.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    rows: u64,
    times_us: Option<(i64, i64)>,
}

/// The windows between the edges, by their place.
fn places(edges: &Edges) -> Vec<Window> {
    let all = window(&edges.range);
    let starts: Vec<i64> = std::iter::once(all.start_ms)
        .chain(edges.stored.iter().map(|(edge, _)| edge.div_euclid(1_000).max(all.start_ms)))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([all.end_ms]);
    starts.iter().zip(ends).map(|(start, end)| Window { start_ms: *start, end_ms: end.min(all.end_ms).max(*start) }).collect()
}

/// Counts the rows of each device in each window.
async fn count(
    cluster: &Cluster,
    layout: &IndexLayout,
    devices: &[Uuid],
    all: &Window,
    windows: &[Window],
) -> Result<Vec<Vec<Counted>>, SourceError> {
    let aggregation = by_device(layout, devices, &by_window(layout, windows));
    let body = cluster.http.send(&query::aggregate(layout, devices, *all, &aggregation)).await?;
    let answer: Answer = parse(&body)?;
    answer.shards.check()?;
    if answer.timed_out {
        return Err(SourceError::Unavailable("the store of readings ended a count before it was complete".to_owned()));
    }
    Ok(devices.iter().map(|device| read_device(&answer.aggregations, *device, windows.len())).collect())
}

fn by_device(layout: &IndexLayout, devices: &[Uuid], inner: &Value) -> Value {
    match layout.device_fields.as_slice() {
        [field] => json!({"devices": {"terms": {"field": field, "size": devices.len()}, "aggs": {"windows": inner}}}),
        fields => {
            let filter = |device: &Uuid| {
                let terms: Vec<_> = fields.iter().map(|field| json!({"term": {field: device.to_string()}})).collect();
                (device.to_string(), json!({"bool": {"should": terms, "minimum_should_match": 1}}))
            };
            let filters: Map<String, Value> = devices.iter().map(filter).collect();
            json!({"devices": {"filters": {"filters": filters}, "aggs": {"windows": inner}}})
        }
    }
}

fn by_window(layout: &IndexLayout, windows: &[Window]) -> Value {
    let range = |(number, window): (usize, &Window)| {
        let [from, to] = query::bounds(layout.time_field, *window);
        json!({"key": number.to_string(), "from": from, "to": to})
    };
    let ranges: Vec<_> = windows.iter().enumerate().map(range).collect();
    let times = json!({"first": {"min": {"field": layout.time}}, "last": {"max": {"field": layout.time}}});
    match layout.time_field {
        TimeField::Number => json!({"range": {"field": layout.time, "keyed": true, "ranges": ranges}, "aggs": times}),
        TimeField::Date | TimeField::DateNanos => json!({
            "date_range": {"field": layout.time, "keyed": true, "ranges": ranges, "format": "strict_date_optional_time"},
            "aggs": times,
        }),
    }
}

/// The counts of a device. A device without rows has no bucket.
fn read_device(aggregations: &Value, device: Uuid, windows: usize) -> Vec<Counted> {
    let id = device.to_string();
    let buckets = aggregations.pointer("/devices/buckets");
    let of_device = match buckets {
        Some(Value::Array(buckets)) => buckets.iter().find(|bucket| bucket.get("key").and_then(Value::as_str) == Some(&id)),
        Some(Value::Object(buckets)) => buckets.get(&id),
        _ => None,
    };
    let read = |number: usize| {
        let bucket = of_device?.pointer("/windows/buckets")?.get(number.to_string())?;
        let rows = bucket.get("doc_count")?.as_u64()?;
        let time = |name: &str| milliseconds_as_us(bucket.pointer(&format!("/{name}/value"))?.as_f64()?);
        Some(Counted { rows, times_us: time("first").zip(time("last")).filter(|_| rows > 0) })
    };
    (0..windows).map(|number| read(number).unwrap_or_default()).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "milliseconds of four-digit years, exact in a double")]
fn milliseconds_as_us(ms: f64) -> Option<i64> {
    (ms.abs() < 1e15).then_some(ms.round() as i64 * 1_000)
}
