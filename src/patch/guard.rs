//! The guard: what ET can't read is held back, since one such document once cost it whole batches.
//!
//! The document is looked through as it streams by; no tree is built, and what is published are the stored bytes.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use uuid::Uuid;

use crate::config::GuardMode;

/// Why a row is held back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it has no document (NULL)")]
    NoDocument,
    #[error("its document is not JSON: {0}")]
    NotJson(String),
    #[error("its document is {0}, not an object")]
    NotAnObject(Kind),
    #[error("its document lacks {0}")]
    Lacks(&'static str),
    #[error("its document is of another device ({0})")]
    OtherDevice(String),
    #[error("its `data` is {0}, not an object")]
    DataNotAnObject(Kind),
    #[error("its `data.data` is a list")]
    ListInData,
}

/// Holds rows of one device against the rules.
#[derive(Debug, Clone)]
pub struct Guard {
    mode: GuardMode,
    device: Uuid,
    device_text: String,
}

impl Guard {
    pub fn new(mode: GuardMode, device: Uuid) -> Self {
        Self { mode, device, device_text: device.to_string() }
    }

    /// The document's bytes, if they may be published.
    ///
    /// # Errors
    /// What is wrong with the row.
    pub fn check(&self, doc: Option<Bytes>) -> Result<Bytes, Fault> {
        let doc = doc.ok_or(Fault::NoDocument)?;
        match self.mode {
            GuardMode::Off => {}
            GuardMode::Json => {
                serde_json::from_str::<IgnoredAny>(utf8(&doc)?).map_err(not_json)?;
            }
            GuardMode::Et => self.et(serde_json::from_str(utf8(&doc)?).map_err(not_json)?)?,
        }
        Ok(doc)
    }

    fn et(&self, reading: Value<'_>) -> Result<(), Fault> {
        let Value::Object(reading) = reading else { return Err(Fault::NotAnObject(reading.kind())) };
        let Some(device) = reading.device_id else { return Err(Fault::Lacks("deviceId")) };
        if !self.is_own(&device) {
            return Err(Fault::OtherDevice(device.chars().take(64).collect()));
        }
        if !reading.has_time {
            return Err(Fault::Lacks("triggerTime"));
        }
        match reading.data {
            None | Some(Data { kind: Kind::Object, list_in_data: false }) => Ok(()),
            Some(Data { kind: Kind::Object, .. }) => Err(Fault::ListInData),
            Some(Data { kind, .. }) => Err(Fault::DataNotAnObject(kind)),
        }
    }

    fn is_own(&self, said: &str) -> bool {
        said == self.device_text || Uuid::try_parse(said).is_ok_and(|said| said == self.device)
    }
}

fn utf8(doc: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(doc).map_err(|error| Fault::NotJson(error.to_string()))
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function in map_err")]
fn not_json(error: serde_json::Error) -> Fault {
    Fault::NotJson(error.to_string())
}

/// What sort of thing a JSON value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    Truth,
    Number,
    Text,
    List,
    Object,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Truth => "a truth value",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list",
            Self::Object => "an object",
        })
    }
}

/// As much of a JSON value as a caller wants to keep of its objects.
trait Fields<'de>: Default {
    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;
}

/// A JSON value of any kind.
enum Any<'de, F> {
    Scalar(Kind, Option<Cow<'de, str>>),
    Object(F),
}

type Value<'de> = Any<'de, Reading<'de>>;

impl<F> Any<'_, F> {
    fn kind(&self) -> Kind {
        match self {
            Self::Scalar(kind, _) => *kind,
            Self::Object(_) => Kind::Object,
        }
    }
}

/// What ET needs of a reading. Where a name comes twice the last counts, as it does for ET.
#[derive(Default)]
struct Reading<'de> {
    device_id: Option<Cow<'de, str>>,
    has_time: bool,
    data: Option<Data>,
}

struct Data {
    kind: Kind,
    list_in_data: bool,
}

impl<'de> Fields<'de> for Reading<'de> {
    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "deviceId" => {
                self.device_id = match map.next_value::<Any<'de, Unread>>()? {
                    Any::Scalar(Kind::Text, text) => text,
                    Any::Scalar(Kind::Null, _) => None,
                    // It has one, and it is no device's.
                    other => Some(Cow::Owned(other.kind().to_string())),
                };
            }
            "triggerTime" => self.has_time = map.next_value::<Any<'de, Unread>>()?.kind() != Kind::Null,
            "data" => {
                self.data = Some(match map.next_value::<Any<'de, Inner>>()? {
                    Any::Scalar(kind, _) => Data { kind, list_in_data: false },
                    Any::Object(inner) => Data { kind: Kind::Object, list_in_data: inner.list },
                });
            }
            _ => {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// `data`, of which only `data.data` matters.
#[derive(Default)]
struct Inner {
    list: bool,
}

impl<'de> Fields<'de> for Inner {
    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "data" {
            self.list = map.next_value::<Any<'de, Unread>>()?.kind() == Kind::List;
        } else {
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// An object of which nothing matters.
#[derive(Default)]
struct Unread;

impl<'de> Fields<'de> for Unread {
    fn field<A: MapAccess<'de>>(&mut self, _: &str, map: &mut A) -> Result<(), A::Error> {
        map.next_value::<IgnoredAny>().map(|_| ())
    }
}

impl<'de, F: Fields<'de>> Deserialize<'de> for Any<'de, F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor(std::marker::PhantomData))
    }
}

struct AnyVisitor<F>(std::marker::PhantomData<F>);

impl<'de, F: Fields<'de>> Visitor<'de> for AnyVisitor<F> {
    type Value = Any<'de, F>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Any::Scalar(Kind::Null, None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Any::Scalar(Kind::Truth, None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Any::Scalar(Kind::Number, None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Any::Scalar(Kind::Number, None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Any::Scalar(Kind::Number, None))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Any::Scalar(Kind::Text, Some(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Any::Scalar(Kind::Text, Some(Cow::Owned(text.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Any::Scalar(Kind::List, None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = F::default();
        while let Some(Name(name)) = map.next_key()? {
            fields.field(&name, &mut map)?;
        }
        Ok(Any::Object(fields))
    }
}

/// A field's name, borrowed where it has no escapes.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::uuid;

    use super::*;

    const DEVICE: Uuid = uuid!("b34299aa-625e-4404-a580-fde1d7cbc3e8");

    fn check(mode: GuardMode, doc: &str) -> Result<(), Fault> {
        Guard::new(mode, DEVICE).check(Some(Bytes::from(doc.to_owned()))).map(|_| ())
    }

    fn et(rest: &str) -> Result<(), Fault> {
        check(GuardMode::Et, &format!(r#"{{"deviceId":"b34299aa-625e-4404-a580-fde1d7cbc3e8","triggerTime":"t"{rest}}}"#))
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
        assert_eq!(et(r#","data":{"data":[{}]}"#), Err(Fault::ListInData));
        assert_eq!(et(r#","data":[]"#), Err(Fault::DataNotAnObject(Kind::List)));
        assert_eq!(et(r#","data":null"#), Err(Fault::DataNotAnObject(Kind::Null)));
        assert_eq!(et(r#","data":"{}""#), Err(Fault::DataNotAnObject(Kind::Text)));
        assert_eq!(et(r#","triggerTime":null"#), Err(Fault::Lacks("triggerTime")));
        assert_eq!(et(r#","deviceId":null"#), Err(Fault::Lacks("deviceId")));
        assert_eq!(et(r#","deviceId":"x""#), Err(Fault::OtherDevice("x".to_owned())));
        assert_eq!(et(r#","deviceId":7"#), Err(Fault::OtherDevice("a number".to_owned())));
        assert_eq!(check(GuardMode::Et, "{}"), Err(Fault::Lacks("deviceId")));
        for (doc, kind) in
            [("[]", Kind::List), ("null", Kind::Null), ("1.5", Kind::Number), ("\"{}\"", Kind::Text), ("true", Kind::Truth)]
        {
            assert_eq!(check(GuardMode::Et, doc), Err(Fault::NotAnObject(kind)), "{doc}");
        }
        for doc in ["", "{", "{}x", "{\"deviceId\":}", "NaN", "{'a':1}"] {
            assert!(matches!(check(GuardMode::Et, doc), Err(Fault::NotJson(_))), "{doc}");
        }
        assert!(matches!(Guard::new(GuardMode::Et, DEVICE).check(Some(Bytes::from_static(b"\"\xff\""))), Err(Fault::NotJson(_))));
    }

    #[test]
    fn the_other_modes() {
        assert_eq!(check(GuardMode::Json, "[1,{\"data\":[]}]"), Ok(()));
        assert!(check(GuardMode::Json, "[1,").is_err());
        assert_eq!(check(GuardMode::Off, "[1,"), Ok(()));
        assert_eq!(Guard::new(GuardMode::Off, DEVICE).check(None), Err(Fault::NoDocument));
    }

    #[test]
    fn a_document_may_be_deep() {
        let deep = format!(r#","x":{}{}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(et(&deep), Ok(()));
    }

    proptest! {
        #[test]
        fn no_document_is_too_odd(doc in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Guard::new(GuardMode::Et, DEVICE).check(Some(Bytes::from(doc)));
        }
    }
}
