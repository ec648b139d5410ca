//! The position of a row among the rows of its device.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The position of a row in the order in which a device is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// Microseconds since 1970, in the time of the source's column.
    pub time_us: i64,
    pub key: RowKey,
}

/// A row key of the source. It is stored and sent as text.
///
/// Create it from text with `from`, so that equal texts are equal keys:
///
/// ```
/// # use data_patch_protocol::task::RowKey;
/// assert_eq!(RowKey::from("7"), RowKey::Integer(7));
/// assert_eq!(RowKey::from("007"), RowKey::Text("007".into()), "another key than 7");
/// assert_eq!(RowKey::from("007").to_string(), "007");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum RowKey {
    Integer(i64),
    Uuid(Uuid),
    /// Any other text.
    Text(Box<str>),
}

impl From<&str> for RowKey {
    fn from(text: &str) -> Self {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if (text == "0" || digits.starts_with(|first: char| matches!(first, '1'..='9')))
            && let Ok(integer) = text.parse()
        {
            return Self::Integer(integer);
        }
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text => Self::Uuid(uuid),
            _ => Self::Text(text.into()),
        }
    }
}

impl From<String> for RowKey {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<RowKey> for String {
    fn from(key: RowKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(key) => key.fmt(f),
            Self::Uuid(key) => key.fmt(f),
            Self::Text(key) => f.write_str(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_of_one_form_only_are_numbers_and_uuids() {
        let uuid = Uuid::from_u128(0xabc);
        for (text, key) in [
            ("0", RowKey::Integer(0)),
            ("-9223372036854775808", RowKey::Integer(i64::MIN)),
            ("00000000-0000-0000-0000-000000000abc", RowKey::Uuid(uuid)),
        ] {
            assert_eq!(RowKey::from(text), key);
        }
        for text in
            ["", "-", "-0", "00", "+1", "1e3", "9223372036854775808", "00000000-0000-0000-0000-000000000ABC", "b6a0", "水"]
        {
            assert_eq!(RowKey::from(text), RowKey::Text(text.into()));
        }
    }

    proptest! {
        #[test]
        fn a_key_is_its_text(text in "-?[0-9]{0,20}|\\PC{0,40}|[0-9a-fA-F]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", number: i64) {
            prop_assert_eq!(RowKey::from(text.as_str()).to_string(), text);
            prop_assert_eq!(RowKey::from(number.to_string()), RowKey::Integer(number));
            prop_assert_eq!(RowKey::from(Uuid::from_u64_pair(1, number.cast_unsigned()).to_string()).to_string().len(), 36);
        }
    }
}
