//! The validation rules. A row that ET cannot read is quarantined, since one such document made ET
//! lose whole batches.
//!
//! Documents are scanned in place: no tree is built, and the stored bytes are published unchanged.

use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use uuid::Uuid;

use super::json::{JsonScanner, JsonString, JsonType, NotJson};

/// Which rows are quarantined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValidationMode {
    /// Rows that ET cannot read.
    Et,
    /// Rows whose document is not JSON.
    Json,
    /// Rows without a document.
    Off,
}

/// Why a row is quarantined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRow {
    #[error("it has no document (NULL)")]
    NoDocument,
    #[error("its document is not JSON: {0}")]
    NotJson(String),
    #[error("its document is {0}, not an object")]
    NotAnObject(JsonType),
    #[error("its document lacks {0}")]
    Lacks(&'static str),
    #[error("its document belongs to another device ({0})")]
    OtherDevice(String),
    #[error("its `data` is {0}, not an object")]
    DataNotAnObject(JsonType),
    #[error("its `data.data` is an array")]
    ArrayInData,
}

/// Checks the rows of one device against the rules.
#[derive(Debug, Clone)]
pub struct Validator {
    mode: ValidationMode,
    device: Uuid,
    device_text: String,
}

impl Validator {
    /// A validator for the rows of `device`.
    pub fn new(mode: ValidationMode, device: Uuid) -> Self {
        Self { mode, device, device_text: device.to_string() }
    }

    /// Returns the document's bytes if they may be published.
    ///
    /// # Errors
    /// The rule that the row violates.
    pub fn check(&self, doc: Option<Bytes>) -> Result<Bytes, InvalidRow> {
        let doc = doc.ok_or(InvalidRow::NoDocument)?;
        match self.mode {
            ValidationMode::Off => {}
            ValidationMode::Json => {
                let doc = utf8(&doc)?;
                let json = JsonScanner::new(doc);
                json.skip(json.begin()).and_then(|end| json.end(end)).map_err(|NotJson| not_json(doc))?;
            }
            ValidationMode::Et => self.check_reading(utf8(&doc)?)?,
        }
        Ok(doc)
    }

    fn check_reading(&self, doc: &str) -> Result<(), InvalidRow> {
        let json = JsonScanner::new(doc);
        // Scans the whole document first, so that a syntax error takes precedence over other
        // errors.
        let reading = Reading::of(json).map_err(|NotJson| not_json(doc))?.map_err(InvalidRow::NotAnObject)?;
        match reading.device_id {
            None => return Err(InvalidRow::Lacks("deviceId")),
            Some(Err(kind)) => return Err(InvalidRow::OtherDevice(kind.to_string())),
            Some(Ok(device)) if !self.is_own(device) => {
                return Err(InvalidRow::OtherDevice(device.unescaped().chars().take(64).collect()));
            }
            Some(Ok(_)) => {}
        }
        if !reading.has_time {
            return Err(InvalidRow::Lacks("triggerTime"));
        }
        match reading.data {
            None | Some(Data { kind: JsonType::Object, array_in_data: false }) => Ok(()),
            Some(Data { kind: JsonType::Object, .. }) => Err(InvalidRow::ArrayInData),
            Some(Data { kind, .. }) => Err(InvalidRow::DataNotAnObject(kind)),
        }
    }

    fn is_own(&self, device: JsonString<'_>) -> bool {
        device.eq_str(&self.device_text) || Uuid::try_parse(&device.unescaped()).is_ok_and(|device| device == self.device)
    }
}

fn utf8(doc: &[u8]) -> Result<&str, InvalidRow> {
    std::str::from_utf8(doc).map_err(|error| InvalidRow::NotJson(error.to_string()))
}

/// The syntax error, in the words of `serde_json`.
fn not_json(doc: &str) -> InvalidRow {
    let error = serde_json::from_str::<IgnoredAny>(doc).err();
    InvalidRow::NotJson(error.map_or_else(|| "syntax error".to_owned(), |error| error.to_string()))
}

/// The fields of a reading that ET needs. If a name occurs more than once, the last one counts, as
/// for ET.
#[derive(Default)]
struct Reading<'d> {
    /// `Err` with the type if it is not a string.
    device_id: Option<Result<JsonString<'d>, JsonType>>,
    has_time: bool,
    data: Option<Data>,
}

/// The field `data`, of which only `data.data` matters.
struct Data {
    kind: JsonType,
    array_in_data: bool,
}

impl<'d> Reading<'d> {
    /// Returns `Err` with the type if the document is not an object.
    fn of(json: JsonScanner<'d>) -> Result<Result<Self, JsonType>, NotJson> {
        let begin = json.begin();
        let kind = json.kind(begin)?;
        if kind != JsonType::Object {
            json.end(json.skip(begin)?)?;
            return Ok(Err(kind));
        }
        let mut reading = Self::default();
        let end = json.object(begin, |name, at| {
            if name.eq_str("deviceId") {
                let kind = json.kind(at)?;
                if kind == JsonType::String {
                    let (device, end) = json.string(at)?;
                    reading.device_id = Some(Ok(device));
                    return Ok(end);
                }
                reading.device_id = (kind != JsonType::Null).then_some(Err(kind));
            } else if name.eq_str("triggerTime") {
                reading.has_time = json.kind(at)? != JsonType::Null;
            } else if name.eq_str("data") {
                let (data, end) = Data::of(json, at)?;
                reading.data = Some(data);
                return Ok(end);
            }
            json.skip(at)
        })?;
        json.end(end)?;
        Ok(Ok(reading))
    }
}

impl Data {
    fn of(json: JsonScanner<'_>, at: usize) -> Result<(Self, usize), NotJson> {
        let mut data = Self { kind: json.kind(at)?, array_in_data: false };
        if data.kind != JsonType::Object {
            return Ok((data, json.skip(at)?));
        }
        let end = json.object(at, |name, at| {
            if name.eq_str("data") {
                data.array_in_data = json.kind(at)? == JsonType::Array;
            }
            json.skip(at)
        })?;
        Ok((data, end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::uuid;

    use super::*;

    const DEVICE: Uuid = uuid!("b34299aa-625e-4404-a580-fde1d7cbc3e8");

    fn check(mode: ValidationMode, doc: &str) -> Result<(), InvalidRow> {
        Validator::new(mode, DEVICE).check(Some(Bytes::from(doc.to_owned()))).map(|_| ())
    }

    fn et(rest: &str) -> Result<(), InvalidRow> {
        check(ValidationMode::Et, &format!(r#"{{"deviceId":"b34299aa-625e-4404-a580-fde1d7cbc3e8","triggerTime":"t"{rest}}}"#))
    }

    #[test]
    fn readable_documents_pass() {
        for rest in [
            "",
            r#","data":{"type":1,"data":{"pressure":12.5},"result":{"code":0,"detail":null}}"#,
            r#","data":{}"#,
            r#","data":{"data":null}"#,
            r#","data":[],"data":{}"#,
            r#","other":[{"data":[1]}],"deep":[[[{"x":"\u00e4\n"}]]]"#,
            r#","deviceId":"B34299AA-625E-4404-A580-FDE1D7CBC3E8""#,
        ] {
            assert_eq!(et(rest), Ok(()), "{rest}");
        }
    }

    #[test]
    fn the_violated_rule_is_named() {
        assert_eq!(et(r#","data":{"data":[{}]}"#), Err(InvalidRow::ArrayInData));
        assert_eq!(et(r#","data":[]"#), Err(InvalidRow::DataNotAnObject(JsonType::Array)));
        assert_eq!(et(r#","data":null"#), Err(InvalidRow::DataNotAnObject(JsonType::Null)));
        assert_eq!(et(r#","data":"{}""#), Err(InvalidRow::DataNotAnObject(JsonType::String)));
        assert_eq!(et(r#","triggerTime":null"#), Err(InvalidRow::Lacks("triggerTime")));
        assert_eq!(et(r#","deviceId":null"#), Err(InvalidRow::Lacks("deviceId")));
        assert_eq!(et(r#","deviceId":"x""#), Err(InvalidRow::OtherDevice("x".to_owned())));
        assert_eq!(et(r#","deviceId":7"#), Err(InvalidRow::OtherDevice("a number".to_owned())));
        assert_eq!(check(ValidationMode::Et, "{}"), Err(InvalidRow::Lacks("deviceId")));
        for (doc, kind) in [
            ("[]", JsonType::Array),
            ("null", JsonType::Null),
            ("1.5", JsonType::Number),
            ("\"{}\"", JsonType::String),
            ("true", JsonType::Bool),
        ] {
            assert_eq!(check(ValidationMode::Et, doc), Err(InvalidRow::NotAnObject(kind)), "{doc}");
        }
        for doc in ["", "{", "{}x", "{\"deviceId\":}", "NaN", "{'a':1}"] {
            assert!(matches!(check(ValidationMode::Et, doc), Err(InvalidRow::NotJson(_))), "{doc}");
        }
        assert!(matches!(
            Validator::new(ValidationMode::Et, DEVICE).check(Some(Bytes::from_static(b"\"\xff\""))),
            Err(InvalidRow::NotJson(_))
        ));
    }

    #[test]
    fn modes_json_and_off() {
        assert_eq!(check(ValidationMode::Json, "[1,{\"data\":[]}]"), Ok(()));
        assert!(check(ValidationMode::Json, "[1,").is_err());
        assert_eq!(check(ValidationMode::Off, "[1,"), Ok(()));
        assert_eq!(Validator::new(ValidationMode::Off, DEVICE).check(None), Err(InvalidRow::NoDocument));
    }

    #[test]
    fn a_document_may_be_deeply_nested() {
        let deep = format!(r#","x":{}{}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(et(&deep), Ok(()));
    }

    proptest! {
        #[test]
        fn no_document_causes_a_panic(doc in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Validator::new(ValidationMode::Et, DEVICE).check(Some(Bytes::from(doc)));
        }
    }
}
