//! Finds out what the store is and how its indices store readings, and refuses what could not be
//! read without loss.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    Cluster,
    error::HttpError,
    http::Request,
    layout::{Distribution, IndexLayout, TimeField, Version},
    response::{parse, read_count},
};
use crate::{
    config::RawTable,
    source::{DocType, IdType, KeyType, SourceError, TimeType, discover::RawLayout},
};

/// Pages of more rows are refused by every version unless an index allows them.
const DEFAULT_MAX_PAGE_ROWS: u32 = 10_000;
/// A device's id has this many characters.
const ID_CHARS: u64 = 36;

#[derive(Deserialize)]
struct Root {
    version: RootVersion,
}

#[derive(Deserialize)]
struct RootVersion {
    number: String,
    #[serde(default)]
    distribution: String,
}

/// What was found about the indices, one after the other.
#[derive(Default)]
struct Findings {
    device_fields: BTreeSet<String>,
    time_fields: BTreeSet<&'static str>,
    problems: Vec<String>,
    warnings: Vec<String>,
    /// Indices that have no field of a reading: new ones, until a document comes.
    without_fields: Vec<String>,
}

/// Reads the version, and the mappings and settings of the configured indices.
pub async fn describe(cluster: &Cluster) -> Result<RawLayout, SourceError> {
    let version = version(cluster).await?;
    let index = &cluster.index;
    let settings = fetch(cluster, &format!("/{index}/_settings?ignore_unavailable=false&allow_no_indices=false")).await?;
    let mappings = fetch(cluster, &format!("/{index}/_mapping?ignore_unavailable=false&allow_no_indices=false")).await?;
    if settings.is_empty() {
        return Err(SourceError::Mapping(format!("no index matches {index:?} (iota.readings.url)")));
    }
    let mut findings = Findings::default();
    for (name, mapping) in &mappings {
        findings.add_index(name, mapping, cluster);
    }
    let (mut shards, mut max_page_rows) = (0, DEFAULT_MAX_PAGE_ROWS);
    for (name, settings) in &settings {
        let number = |key: &str| settings.pointer(&format!("/settings/index/{key}"))?.as_str()?.parse::<u32>().ok();
        shards += number("number_of_shards").unwrap_or(1);
        max_page_rows = max_page_rows.min(number("max_result_window").unwrap_or(DEFAULT_MAX_PAGE_ROWS)).max(1);
        if settings.pointer("/settings/index/mapping/source/mode").and_then(Value::as_str) == Some("synthetic") {
            findings.problems.push(synthetic(name));
        }
    }
    let unmapped = std::mem::take(&mut findings.without_fields);
    findings.warnings.extend(documents_without_fields(cluster, unmapped).await?);
    findings.warnings.extend(closed_indices(cluster).await?);
    findings.warnings.extend(red_indices(cluster).await);
    let time_field = findings.time_field(cluster)?;
    let layout = IndexLayout {
        version,
        index: index.clone(),
        device_fields: findings.device_fields.into_iter().collect(),
        device: cluster.device.clone(),
        time: cluster.time.clone(),
        time_field,
        indices: settings.keys().cloned().collect(),
        shards,
        max_page_rows,
        settle_seconds: cluster.settle_seconds,
    };
    Ok(RawLayout {
        raw: RawTable {
            table: index.clone(),
            id: "_id".to_owned(),
            device: cluster.device.clone(),
            time: cluster.time.clone(),
            doc: "_source".to_owned(),
        },
        raw_device: IdType::Text,
        key: KeyType::Text,
        time: TimeType::Instant,
        doc: DocType::Text,
        key_nullable: false,
        has_index: true,
        layout_check: None,
        index: Some(Arc::new(layout)),
        warnings: findings.warnings,
    })
}

async fn version(cluster: &Cluster) -> Result<Version, SourceError> {
    let body = cluster.http.send(&Request::get("/")).await?;
    let Root { version: RootVersion { number, distribution } } = parse(&body)?;
    let mut numbers = number.split('.').map_while(|number| number.parse().ok());
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let version = if distribution == "opensearch" {
        Version { distribution: Distribution::OpenSearch, major, minor }
    } else {
        Version { distribution: Distribution::Elasticsearch, major, minor }
    };
    let is_known = match version.distribution {
        Distribution::Elasticsearch => (5..=9).contains(&major),
        Distribution::OpenSearch => (1..=3).contains(&major),
    };
    if !is_known {
        return Err(SourceError::Mapping(format!(
            "the store is {} {number}; Elasticsearch 5.6 to 8 and OpenSearch 1.3 to 3 can be read",
            version.distribution
        )));
    }
    Ok(version)
}

async fn fetch(cluster: &Cluster, path: &str) -> Result<BTreeMap<String, Value>, SourceError> {
    let body = cluster.http.send(&Request::get(path)).await?;
    parse(&body)
}

/// A search leaves such documents out, without a word: an index that maps no new fields, or that is
/// not about readings.
async fn documents_without_fields(cluster: &Cluster, indices: Vec<String>) -> Result<Vec<String>, SourceError> {
    let mut warnings = Vec::new();
    for name in indices {
        let documents = read_count(&cluster.http.send(&Request::get(format!("/{name}/_count"))).await?)?;
        if documents == 0 {
            continue;
        }
        // The first document of a new index, which adds its fields, may have come since.
        let mut findings = Findings::default();
        for (name, mapping) in fetch(cluster, &format!("/{name}/_mapping")).await? {
            findings.add_index(&name, &mapping, cluster);
        }
        if !findings.without_fields.is_empty() {
            warnings.push(format!(
                "index {name} has {documents} documents, and neither {} nor {} in its mapping: none of them is read. If they are readings, map these fields and reindex them; else leave the index out of the pattern (iota.readings.url)",
                cluster.device, cluster.time
            ));
        }
    }
    Ok(warnings)
}

/// A pattern leaves closed indices out, without a word.
async fn closed_indices(cluster: &Cluster) -> Result<Option<String>, SourceError> {
    if !cluster.index.contains('*') {
        // Otherwise every search of a closed index fails.
        return Ok(None);
    }
    let path = format!("/{}/_settings?ignore_unavailable=true&allow_no_indices=true&expand_wildcards=closed", cluster.index);
    let closed: Vec<_> = fetch(cluster, &path).await?.into_keys().collect();
    Ok((!closed.is_empty()).then(|| {
        format!(
            "{} closed, so that its readings are not read. Open it to publish them (POST /{}/_open)",
            names(&closed),
            closed.join(",")
        )
    }))
}

/// A warning only: a user may lack the right to see it, and each search finds out by itself.
async fn red_indices(cluster: &Cluster) -> Option<String> {
    let path = format!("/_cluster/health/{}?level=indices", cluster.index);
    let body = match cluster.http.send(&Request { max_bytes: 16 << 20, ..Request::get(path) }).await {
        // A red index is answered with 408 by some versions.
        Ok(body) => body,
        Err(HttpError::Unreachable(_) | HttpError::Untrusted(_) | HttpError::Refused(_) | HttpError::TooLarge) => return None,
    };
    let health: Value = serde_json::from_slice(&body).ok()?;
    let red: Vec<_> = health
        .get("indices")?
        .as_object()?
        .iter()
        .filter(|(_, index)| index.get("status").and_then(Value::as_str) == Some("red"))
        .map(|(name, _)| name.clone())
        .collect();
    (!red.is_empty()).then(|| format!("{} red: devices cannot be read before all of its shards are available", names(&red)))
}

fn names(indices: &[String]) -> String {
    match indices {
        [index] => format!("index {index} is"),
        _ => format!("{} indices ({}) are", indices.len(), indices.join(", ")),
    }
}

fn synthetic(index: &str) -> String {
    format!(
        "index {index} has a synthetic _source: documents would not be published as they were written. Reindex it with a stored _source"
    )
}

impl Findings {
    fn add_index(&mut self, name: &str, mapping: &Value, cluster: &Cluster) {
        let Some(mappings) = mapping.get("mappings").and_then(Value::as_object) else { return };
        // Before version 7, each type of documents has a mapping.
        let is_typed =
            !mappings.contains_key("properties") && mappings.values().any(|of_type| of_type.get("properties").is_some());
        let types: Vec<&Value> = if is_typed {
            mappings.values().filter(|of_type| of_type.get("properties").is_some()).collect()
        } else {
            mapping.get("mappings").into_iter().collect()
        };
        let mut has_fields = false;
        for of_type in types {
            let (device, time) = (property(of_type, &cluster.device), property(of_type, &cluster.time));
            if device.is_none() && time.is_none() {
                continue;
            }
            has_fields = true;
            for field in [&cluster.device, &cluster.time] {
                if let Some(outer) = nested(of_type, field) {
                    self.problems.push(format!(
                        "field {field} of index {name} is in {outer}, which is nested: a search by it finds no document. Reindex it as an object, or name another field"
                    ));
                }
            }
            self.add_source(name, of_type);
            self.add_device(name, &cluster.device, device);
            self.add_time(name, &cluster.time, time);
        }
        if !has_fields {
            self.without_fields.push(name.to_owned());
        }
    }

    fn add_source(&mut self, name: &str, mapping: &Value) {
        let Some(source) = mapping.get("_source") else { return };
        let has_filter = |key: &str| source.get(key).and_then(Value::as_array).is_some_and(|filter| !filter.is_empty());
        if source.get("enabled") == Some(&Value::Bool(false)) {
            self.problems.push(format!("index {name} stores no documents (_source is disabled): there is nothing to publish"));
        } else if source.get("mode").and_then(Value::as_str) == Some("synthetic") {
            self.problems.push(synthetic(name));
        } else if has_filter("includes") || has_filter("excludes") {
            self.problems.push(format!(
                "index {name} stores parts of its documents (_source includes or excludes): they would be published without the rest"
            ));
        }
    }

    fn add_device(&mut self, index: &str, name: &str, field: Option<&Value>) {
        let Some(field) = field else {
            self.problems.push(format!("index {index} has no field {name} (iota.readings.device)"));
            return;
        };
        let kind = field.get("type").and_then(Value::as_str).unwrap_or("object");
        let is_term = |field: &Value| {
            matches!(field.get("type").and_then(Value::as_str), Some("keyword" | "constant_keyword" | "wildcard"))
                && !is_off(field, "index")
                && field.get("ignore_above").and_then(Value::as_u64).is_none_or(|most| most >= ID_CHARS)
        };
        if is_term(field) {
            self.device_fields.insert(name.to_owned());
            return;
        }
        let mut inner = field.get("fields").and_then(Value::as_object).into_iter().flatten();
        match inner.find(|(_, field)| is_term(field)) {
            Some((inner, _)) => drop(self.device_fields.insert(format!("{name}.{inner}"))),
            None => self.problems.push(format!(
                "field {name} of index {index} is of type {kind}, which finds no device by its id; it must be a keyword of at least {ID_CHARS} characters, or have one as a further field ({name}.keyword). Reindex it, or name another field in iota.readings.device"
            )),
        }
    }

    fn add_time(&mut self, index: &str, name: &str, field: Option<&Value>) {
        let Some(field) = field else {
            self.problems.push(format!("index {index} has no field {name} (iota.readings.time)"));
            return;
        };
        let kind = match field.get("type").and_then(Value::as_str) {
            Some("date") => "date",
            Some("date_nanos") => "date_nanos",
            Some("long") => "long",
            other => {
                let other = other.unwrap_or("object");
                self.problems.push(format!(
                    "field {name} of index {index} is of type {other}; it must be date, date_nanos, or a long of milliseconds since 1970. Reindex it, or name another field in iota.readings.time"
                ));
                return;
            }
        };
        if is_off(field, "index") || is_off(field, "doc_values") {
            self.problems
                .push(format!("field {name} of index {index} can't be searched or sorted (index and doc_values must be true)"));
        }
        if field.get("ignore_malformed") == Some(&Value::Bool(true)) {
            self.warnings.push(format!(
                "field {name} of index {index} ignores malformed times: documents with one are in no range, and are not published"
            ));
        }
        self.time_fields.insert(kind);
    }

    /// Fails if there is a problem.
    fn time_field(&mut self, cluster: &Cluster) -> Result<TimeField, SourceError> {
        self.problems.dedup();
        if let Some((first, more)) = self.problems.split_first() {
            let more = if more.is_empty() { String::new() } else { format!(" (and {} problems more)", more.len()) };
            return Err(SourceError::Mapping(format!("{first}{more}")));
        }
        if self.device_fields.is_empty() {
            return Err(SourceError::Mapping(format!(
                "no index of {:?} has the fields {} and {} (iota.readings.device, iota.readings.time): no reading was ever indexed there, or they have other names",
                cluster.index, cluster.device, cluster.time
            )));
        }
        match self.time_fields.iter().copied().collect::<Vec<_>>().as_slice() {
            ["date"] => Ok(TimeField::Date),
            ["date" | "date_nanos", ..] if !self.time_fields.contains("long") => Ok(TimeField::DateNanos),
            ["long"] => Ok(TimeField::Number),
            _ => Err(SourceError::Mapping(format!(
                "field {} is a date in some indices of {:?} and a number in others; name indices of one kind",
                cluster.time, cluster.index
            ))),
        }
    }
}

/// Whether an option of a field is switched off; before version 5 it was a text.
fn is_off(field: &Value, option: &str) -> bool {
    matches!(field.get(option), Some(Value::Bool(false))) || field.get(option).and_then(Value::as_str) == Some("no")
}

/// The nested object that a field is in, if it is in one.
fn nested<'a>(mapping: &Value, name: &'a str) -> Option<&'a str> {
    name.match_indices('.')
        .map(|(at, _)| name.split_at(at).0)
        .find(|outer| property(mapping, outer).and_then(|object| object.get("type")).and_then(Value::as_str) == Some("nested"))
}

/// A field in a mapping, by its path.
fn property<'a>(mapping: &'a Value, name: &str) -> Option<&'a Value> {
    let properties = mapping.get("properties")?;
    if let Some(field) = properties.get(name) {
        return Some(field);
    }
    let (outer, inner) = name.split_once('.')?;
    property(properties.get(outer)?, inner)
}
