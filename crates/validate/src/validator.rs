//! The rules: a row that ET cannot read is quarantined, since one such document made ET lose whole batches.
//!
//! The document is scanned in place. No tree is built, and the stored bytes are what is published.

use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use uuid::Uuid;

use super::json::{JsonScanner, JsonString, JsonType, NotJson};

/// Which rows are quarantined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValidationMode {
    /// Those that ET cannot read.
    Et,
    /// Those whose document is not JSON.
    Json,
    /// Those without a document.
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
    #[error("its document is of another device ({0})")]
    OtherDevice(String),
    #[error("its `data` is {0}, not an object")]
    DataNotAnObject(JsonType),
    #[error("its `data.data` is a list")]
    ListInData,
}

/// Holds rows of one device against the rules.
#[derive(Debug, Clone)]
pub struct Validator {
    mode: ValidationMode,
    device: Uuid,
    device_text: String,
}

impl Validator {
    pub fn new(mode: ValidationMode, device: Uuid) -> Self {
        Self { mode, device, device_text: device.to_string() }
    }

    /// The document's bytes, if they may be published.
    ///
    /// # Errors
    /// What is wrong with the row.
    pub fn check(&self, doc: Option<Bytes>) -> Result<Bytes, InvalidRow> {
        let doc = doc.ok_or(InvalidRow::NoDocument)?;
        match self.mode {
            ValidationMode::Off => {}
            ValidationMode::Json => {
                let doc = utf8(&doc)?;
                let json = JsonScanner::new(doc);
                json.skip(json.begin()).and_then(|end| json.end(end)).map_err(|NotJson| not_json(doc))?;
            }
            ValidationMode::Et => self.et(utf8(&doc)?)?,
        }
        Ok(doc)
    }

    fn et(&self, doc: &str) -> Result<(), InvalidRow> {
        let json = JsonScanner::new(doc);
        // All of it is JSON, before anything else is said of it.
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
            None | Some(Data { kind: JsonType::Object, list_in_data: false }) => Ok(()),
            Some(Data { kind: JsonType::Object, .. }) => Err(InvalidRow::ListInData),
            Some(Data { kind, .. }) => Err(InvalidRow::DataNotAnObject(kind)),
        }
    }

    fn is_own(&self, device: JsonString<'_>) -> bool {
        device.eq_str(&self.device_text) || Uuid::try_parse(&device.unescaped()).is_ok_and(|said| said == self.device)
    }
}

fn utf8(doc: &[u8]) -> Result<&str, InvalidRow> {
    std::str::from_utf8(doc).map_err(|error| InvalidRow::NotJson(error.to_string()))
}

/// What is wrong with it, and where, in serde_json's words.
fn not_json(doc: &str) -> InvalidRow {
    let wrong = serde_json::from_str::<IgnoredAny>(doc).err();
    InvalidRow::NotJson(wrong.map_or_else(|| "its grammar is wrong".to_owned(), |error| error.to_string()))
}

/// What ET needs of a reading. Where a name comes twice the last counts, as it does for ET.
#[derive(Default)]
struct Reading<'d> {
    /// What it is, if it is no text: then it is no device's.
    device_id: Option<Result<JsonString<'d>, JsonType>>,
    has_time: bool,
    data: Option<Data>,
}

/// `data`, of which only `data.data` matters.
struct Data {
    kind: JsonType,
    list_in_data: bool,
}

impl<'d> Reading<'d> {
    /// What it is, if it is no object.
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
        let mut data = Self { kind: json.kind(at)?, list_in_data: false };
        if data.kind != JsonType::Object {
            return Ok((data, json.skip(at)?));
        }
        let end = json.object(at, |name, at| {
            if name.eq_str("data") {
                data.list_in_data = json.kind(at)? == JsonType::Array;
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
    fn what_et_can_read_passes() {
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
    fn what_it_cannot_is_named() {
        assert_eq!(et(r#","data":{"data":[{}]}"#), Err(InvalidRow::ListInData));
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
    fn the_other_modes() {
        assert_eq!(check(ValidationMode::Json, "[1,{\"data\":[]}]"), Ok(()));
        assert!(check(ValidationMode::Json, "[1,").is_err());
        assert_eq!(check(ValidationMode::Off, "[1,"), Ok(()));
        assert_eq!(Validator::new(ValidationMode::Off, DEVICE).check(None), Err(InvalidRow::NoDocument));
    }

    #[test]
    fn a_document_may_be_deep() {
        let deep = format!(r#","x":{}{}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(et(&deep), Ok(()));
    }

    proptest! {
        #[test]
        fn no_document_is_too_odd(doc in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Validator::new(ValidationMode::Et, DEVICE).check(Some(Bytes::from(doc)));
        }
    }
}
