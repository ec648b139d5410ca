//! The validator, which builds no tree, decides on every document as an oracle that builds a tree.

use bytes::Bytes;
use data_patch_validate::{InvalidRow, JsonType, ValidationMode, Validator};
use serde_json::Value;
use uuid::{Uuid, uuid};

const DEVICE: Uuid = uuid!("b34299aa-625e-4404-a580-fde1d7cbc3e8");
const MAX_ERROR_CHARS: usize = 1_000;

/// Panics if a property does not hold.
pub fn check(input: &[u8]) {
    let ours = validated(ValidationMode::Et, input);
    match (validated(ValidationMode::Json, input), &ours) {
        (Ok(()), _) | (Err(InvalidRow::NotJson(_)), Err(InvalidRow::NotJson(_))) => {}
        (json, _) => panic!("{ours:?}, but in the mode `json`: {json:?}"),
    }
    if input.windows(8).any(|name| name == b"RawValue") {
        // serde_json treats this name differently, since sqlx enables its feature raw_value.
        return;
    }
    match serde_json::from_slice::<Value>(input) {
        Ok(tree) => {
            assert_eq!(ours, expected(&tree));
            assert_eq!(
                validated(ValidationMode::Et, &with_ignored_field(input, &tree)),
                ours,
                "a field that ET ignores has an effect"
            );
        }
        // JSON's grammar allows these, and the validator skips them in fields that ET ignores.
        Err(error) if only_the_tree_rejects(&error) => {}
        Err(_) => assert!(matches!(ours, Err(InvalidRow::NotJson(_))), "{ours:?}"),
    }
}

/// The validator's decision, without the text about invalid JSON, which is serde_json's.
fn validated(mode: ValidationMode, doc: &[u8]) -> Result<(), InvalidRow> {
    match Validator::new(mode, DEVICE).check(Some(Bytes::copy_from_slice(doc))) {
        Ok(passed) => {
            assert_eq!(passed, doc, "the document is published as it is stored");
            Ok(())
        }
        Err(error) => {
            assert!(error.to_string().chars().count() < MAX_ERROR_CHARS, "{error}");
            Err(if matches!(error, InvalidRow::NotJson(_)) { InvalidRow::NotJson(String::new()) } else { error })
        }
    }
}

fn expected(tree: &Value) -> Result<(), InvalidRow> {
    let Value::Object(reading) = tree else { return Err(InvalidRow::NotAnObject(kind(tree))) };
    let non_null = |name| reading.get(name).filter(|value| !value.is_null());
    match non_null("deviceId") {
        None => return Err(InvalidRow::Lacks("deviceId")),
        Some(Value::String(id)) if id.parse() == Ok(DEVICE) => {}
        Some(Value::String(id)) => return Err(InvalidRow::OtherDevice(id.chars().take(64).collect())),
        Some(other) => return Err(InvalidRow::OtherDevice(kind(other).to_string())),
    }
    if non_null("triggerTime").is_none() {
        return Err(InvalidRow::Lacks("triggerTime"));
    }
    match reading.get("data") {
        Some(Value::Object(data)) if data.get("data").is_some_and(Value::is_array) => Err(InvalidRow::ArrayInData),
        None | Some(Value::Object(_)) => Ok(()),
        Some(other) => Err(InvalidRow::DataNotAnObject(kind(other))),
    }
}

fn kind(value: &Value) -> JsonType {
    match value {
        Value::Null => JsonType::Null,
        Value::Bool(_) => JsonType::Bool,
        Value::Number(_) => JsonType::Number,
        Value::String(_) => JsonType::String,
        Value::Array(_) => JsonType::Array,
        Value::Object(_) => JsonType::Object,
    }
}

/// Whether the error is a depth over 128, a number beyond f64, or half a surrogate pair.
fn only_the_tree_rejects(error: &serde_json::Error) -> bool {
    let text = error.to_string();
    ["recursion limit exceeded", "number out of range", "hex escape"].iter().any(|cause| text.contains(cause))
}

/// The object with an additional first field that ET ignores and that no tree can hold.
fn with_ignored_field(input: &[u8], tree: &Value) -> Vec<u8> {
    let Value::Object(reading) = tree else { return input.to_vec() };
    let brace = input.iter().position(|&byte| byte == b'{').expect("an object");
    let comma = if reading.is_empty() { "" } else { "," };
    let more = format!(r#"{{"x":{}["\ud800",1e999]{}{comma}"#, "[".repeat(150), "]".repeat(150));
    [more.as_bytes(), &input[brace + 1..]].concat()
}
