//! Pages of documents, as the store answers them: the bytes of each document as they were indexed.

use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{error::FailedShard, lenient};
use crate::source::SourceError;

/// Bytes that are shown of an answer that cannot be read.
const SHOWN_BYTES: usize = 100;

/// A page of documents in ascending order of milliseconds.
#[derive(Debug)]
pub struct Page {
    pub hits: Vec<Hit>,
    /// Documents that the query finds.
    pub total: u64,
    pub scroll_id: Option<String>,
    /// Shards that were asked.
    pub shards: u32,
    /// Bytes of the answer.
    pub bytes: usize,
    body: Bytes,
}

/// A document.
#[derive(Debug, Clone)]
pub struct Hit {
    /// Its time in milliseconds since 1970, as the store sorts it.
    pub ms: i64,
    pub id: Box<str>,
    pub index: Arc<str>,
    /// Where it is in the answer. `None`: the store has no document.
    document: Option<Range<usize>>,
}

#[derive(Deserialize)]
pub(super) struct Shards {
    total: u32,
    #[serde(default)]
    successful: u32,
    #[serde(default)]
    failed: u32,
    #[serde(default)]
    failures: Vec<FailedShard>,
}

#[derive(Deserialize)]
struct SearchAnswer<'a> {
    #[serde(rename = "_scroll_id")]
    scroll_id: Option<String>,
    timed_out: bool,
    #[serde(default)]
    terminated_early: bool,
    #[serde(rename = "_shards")]
    shards: Shards,
    #[serde(borrow)]
    hits: Hits<'a>,
}

#[derive(Deserialize)]
struct Hits<'a> {
    total: Total,
    #[serde(borrow)]
    hits: Vec<RawHit<'a>>,
}

#[derive(Deserialize)]
struct RawHit<'a> {
    #[serde(rename = "_index", borrow)]
    index: Cow<'a, str>,
    #[serde(rename = "_id", borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "_source", borrow)]
    source: Option<&'a RawValue>,
    #[serde(default)]
    sort: Vec<serde_json::Value>,
}

/// A number before version 7.
#[derive(Deserialize)]
#[serde(untagged)]
enum Total {
    Number(u64),
    Object { value: u64 },
}

#[derive(Deserialize)]
struct CountAnswer {
    count: u64,
    #[serde(rename = "_shards")]
    shards: Shards,
}

impl Shards {
    /// Fails unless every shard has answered: rows of the others would be missing.
    pub fn check(&self) -> Result<(), SourceError> {
        let Self { total, successful, failed, failures } = self;
        if *total == 0 {
            return Err(SourceError::Mapping("no index matches iota.readings.url any more".to_owned()));
        }
        if *failed > 0 || successful < total {
            let reason = failures.first().map_or_else(|| "they have no copy that is available".to_owned(), FailedShard::describe);
            let missing = (*failed).max(total - successful);
            return Err(SourceError::Unavailable(format!("{missing} of {total} shards have not answered: {reason}")));
        }
        Ok(())
    }
}

impl Page {
    /// Reads the answer of a search or scroll.
    ///
    /// # Errors
    /// It does not have all that was found, or is no such answer.
    pub fn read(body: &Bytes) -> Result<Self, SourceError> {
        match serde_json::from_slice::<SearchAnswer<'_>>(body) {
            Ok(answer) => {
                let offset = |document: &RawValue| {
                    let start = document.get().as_ptr() as usize - body.as_ptr() as usize;
                    start..start + document.get().len()
                };
                let documents = answer.hits.hits.iter().map(|hit| hit.source.map(offset)).collect();
                Self::of(answer, documents, body.clone())
            }
            Err(error) => {
                let (page, documents) = lenient::split(body).ok_or_else(|| no_page(body, &error))?;
                let answer: SearchAnswer<'_> = serde_json::from_slice(&page).map_err(|_| no_page(body, &error))?;
                if answer.hits.hits.len() != documents.len() {
                    return Err(no_page(body, &error));
                }
                Self::of(answer, documents.into_iter().map(Some).collect(), body.clone())
            }
        }
    }

    fn of(answer: SearchAnswer<'_>, documents: Vec<Option<Range<usize>>>, body: Bytes) -> Result<Self, SourceError> {
        if answer.timed_out || answer.terminated_early {
            return Err(SourceError::Unavailable("the store of readings ended a search before it was complete".to_owned()));
        }
        answer.shards.check()?;
        let total = match answer.hits.total {
            Total::Number(total) | Total::Object { value: total } => total,
        };
        let mut index: Arc<str> = Arc::from("");
        let mut hits = Vec::with_capacity(documents.len());
        for (hit, document) in answer.hits.hits.into_iter().zip(documents) {
            if *index != *hit.index {
                index = Arc::from(&*hit.index);
            }
            let ms = hit.sort.first().and_then(serde_json::Value::as_i64);
            let ms = ms.ok_or_else(|| {
                SourceError::Unknown(format!("document {} of {} was returned without its time", hit.id, hit.index))
            })?;
            hits.push(Hit { ms, id: hit.id.into(), index: Arc::clone(&index), document });
        }
        Ok(Self { hits, total, scroll_id: answer.scroll_id, shards: answer.shards.total, bytes: body.len(), body })
    }

    /// The bytes of a document.
    pub fn document(&self, hit: &Hit) -> Option<Bytes> {
        hit.document.clone().filter(|range| range.end <= self.body.len()).map(|range| self.body.slice(range))
    }
}

/// The first document of an answer.
pub fn any_document(body: &[u8]) -> Result<Option<Bytes>, SourceError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        hits: Hits<'a>,
    }
    let answer: Answer<'_> = parse(body)?;
    let document = answer.hits.hits.first().and_then(|hit| hit.source);
    Ok(document.map(|document| Bytes::copy_from_slice(document.get().as_bytes())))
}

/// Reads the answer of a count.
pub fn read_count(body: &[u8]) -> Result<u64, SourceError> {
    let answer: CountAnswer = parse(body)?;
    answer.shards.check()?;
    Ok(answer.count)
}

/// Reads an answer of JSON.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, SourceError> {
    serde_json::from_slice(body).map_err(|error| no_page(body, &error))
}

/// The answer is not what the store answers: a proxy may have answered instead.
fn no_page(body: &[u8], error: &serde_json::Error) -> SourceError {
    let start = String::from_utf8_lossy(body.get(..body.len().min(SHOWN_BYTES)).unwrap_or_default());
    SourceError::Unknown(format!(
        "an answer of the store of readings can't be read: {error}. It begins with {start:?}; a proxy may have answered instead"
    ))
}

/// The scroll that an answer belongs to, also if the answer is not complete.
pub fn scroll_id(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "_scroll_id")]
        scroll_id: Option<String>,
    }
    serde_json::from_slice::<Answer>(body).ok()?.scroll_id
}

/// What a document says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    pub device: Option<Cow<'a, str>>,
    /// The digits of its time below a millisecond, as nanoseconds.
    pub nanos: u32,
}

/// Reads the fields of a document, by the paths of their names. A document that is no JSON, or has
/// not these fields, has none.
pub fn fields<'a>(document: &'a [u8], device: &str, time: &str) -> Fields<'a> {
    let [device, time] = lookup(document, [device, time]);
    Fields {
        device: device.and_then(|value| serde_json::from_str(value.get()).ok()),
        nanos: time.map_or(0, |value| sub_millisecond_nanos(value.get())),
    }
}

/// The digits of the seconds' fraction after the third, of a time as text in RFC 3339.
fn sub_millisecond_nanos(time: &str) -> u32 {
    let Some((_, fraction)) = time.split_once(['.', ',']) else { return 0 };
    if !time.starts_with('"') {
        return 0;
    }
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).chain(std::iter::repeat(b'0'));
    digits.skip(3).take(6).fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'))
}

/// Looks two names up in an object. A name with dots is the path to a nested one.
fn lookup<'a>(document: &'a [u8], names: [&str; 2]) -> [Option<&'a RawValue>; 2] {
    struct Lookup<'n>([&'n str; 2]);
    impl<'de> Visitor<'de> for Lookup<'_> {
        type Value = [Option<&'de RawValue>; 2];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = [None; 2];
            while let Some(key) = map.next_key::<Key<'de>>()? {
                let mut is_read = false;
                for (name, value) in self.0.iter().zip(&mut found) {
                    if *name == key.0 {
                        *value = Some(map.next_value()?);
                        is_read = true;
                        break;
                    }
                }
                if !is_read {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }
    let direct = serde_json::Deserializer::from_slice(document).deserialize_map(Lookup(names)).unwrap_or_default();
    let [first, second] = direct;
    let nested = |found: Option<&'a RawValue>, name: &str| {
        found.or_else(|| {
            let (outer, inner) = name.split_once('.')?;
            let [outer, _] = lookup(document, [outer, ""]);
            let [inner, _] = lookup(outer?.get().as_bytes(), [inner, ""]);
            inner
        })
    };
    let [first_name, second_name] = names;
    [nested(first, first_name), nested(second, second_name)]
}

/// A key, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_below_a_millisecond_are_nanoseconds() {
        for (time, nanos) in [
            (r#""2019-01-11T13:03:00.123456789Z""#, 456_789),
            (r#""2019-01-11T13:03:00.1234+08:00""#, 400_000),
            (r#""2019-01-11T13:03:00.12Z""#, 0),
            (r#""2019-01-11T13:03:00Z""#, 0),
            ("1547211780000", 0),
            ("1547211780000.25", 0),
        ] {
            assert_eq!(sub_millisecond_nanos(time), nanos, "{time}");
        }
    }

    #[test]
    fn fields_are_found_by_their_paths() {
        let nested = br#"{"meta":{"device":"d","x":[1]},"triggerTime":"2019-01-11T13:03:00.0001Z"}"#;
        let expected = Fields { device: Some("d".into()), nanos: 100_000 };
        assert_eq!(fields(nested, "meta.device", "triggerTime"), expected);
        assert_eq!(fields(br#"{"meta.device":"d","t":1}"#, "meta.device", "t").device.as_deref(), Some("d"));
        assert_eq!(fields(br#"{"device\u0049d":"d"}"#, "deviceId", "t").device.as_deref(), Some("d"));
        assert_eq!(fields(br#"{"deviceId": /* no JSON */ "d"}"#, "deviceId", "t"), Fields::default());
    }

    fn answer(shards: &str, hits: &str) -> String {
        format!(
            r#"{{"took":1,"timed_out":false,"_shards":{shards},"hits":{{"total":{{"value":2,"relation":"eq"}},"max_score":null,"hits":[{hits}]}}}}"#
        )
    }

    #[test]
    fn documents_are_returned_byte_for_byte() {
        let documents = [r#"{ "a" : 1.0e3 ,"ü":"\u00e9"}"#, r#"{"a":123456789012345678901234567890}"#];
        let hit = |number: usize, document: &str| {
            format!(r#"{{"_index":"raw","_id":"{number}","_score":null,"_source":{document},"sort":[{number}]}}"#)
        };
        for last in [documents[1], r#"{"a":/* no JSON */1}"#] {
            let hits = [hit(0, documents[0]), hit(1, last)].join(",");
            let page = Page::read(&Bytes::from(answer(r#"{"total":3,"successful":3,"skipped":1,"failed":0}"#, &hits))).unwrap();
            let read: Vec<_> = page.hits.iter().map(|hit| page.document(hit).unwrap()).collect();
            assert_eq!(read, [documents[0], last]);
            assert_eq!((page.total, page.shards, page.hits[1].ms), (2, 3, 1));
        }
    }

    #[test]
    fn an_answer_without_some_shards_is_an_error() {
        for shards in [
            r#"{"total":3,"successful":2,"failed":1,"failures":[{"index":"raw","reason":{"type":"x","reason":"broken"}}]}"#,
            r#"{"total":3,"successful":2,"failed":0}"#,
        ] {
            let error = Page::read(&Bytes::from(answer(shards, ""))).unwrap_err();
            assert!(matches!(&error, SourceError::Unavailable(text) if text.contains("1 of 3 shards")), "{error}");
        }
        let error = Page::read(&Bytes::from(answer(r#"{"total":0,"successful":0,"failed":0}"#, ""))).unwrap_err();
        assert!(matches!(error, SourceError::Mapping(_)));
    }
}
