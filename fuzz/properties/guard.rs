//! The validator, which builds no tree, decides every document as one that builds a tree does.

use bytes::Bytes;
use data_patch_validate::{InvalidRow, JsonType, ValidationMode, Validator};
use serde_json::Value;
use uuid::{Uuid, uuid};

const DEVICE: Uuid = uuid!("b34299aa-625e-4404-a580-fde1d7cbc3e8");
const MAX_FAULT_CHARS: usize = 1_000;

/// Panics where a property does not hold.
pub fn check(input: &[u8]) {
    let ours = guarded(ValidationMode::Et, input);
    match (guarded(ValidationMode::Json, input), &ours) {
        (Ok(()), _) | (Err(InvalidRow::NotJson(_)), Err(InvalidRow::NotJson(_))) => {}
        (json, _) => panic!("{ours:?}, but only looked at as JSON: {json:?}"),
    }
    if input.windows(8).any(|name| name == b"RawValue") {
        // Not a name like others to serde_json's tree: sqlx turns its feature raw_value on.
        return;
    }
    match serde_json::from_slice::<Value>(input) {
        Ok(tree) => {
            assert_eq!(ours, judged(&tree));
            assert_eq!(guarded(ValidationMode::Et, &with_much_more(input, &tree)), ours, "what ET does not look at counts");
        }
        // JSON's grammar allows these, and the guard passes over them where nobody looks.
        Err(error) if only_a_tree_minds(&error) => {}
        Err(_) => assert!(matches!(ours, Err(InvalidRow::NotJson(_))), "{ours:?}"),
    }
}

/// What the guard says; the words about what is not JSON are serde_json's, and are left out.
fn guarded(mode: ValidationMode, doc: &[u8]) -> Result<(), InvalidRow> {
    match Validator::new(mode, DEVICE).check(Some(Bytes::copy_from_slice(doc))) {
        Ok(passed) => {
            assert_eq!(passed, doc, "what is published is what is stored");
            Ok(())
        }
        Err(fault) => {
            assert!(fault.to_string().chars().count() < MAX_FAULT_CHARS, "{fault}");
            Err(if matches!(fault, InvalidRow::NotJson(_)) { InvalidRow::NotJson(String::new()) } else { fault })
        }
    }
}

fn judged(tree: &Value) -> Result<(), InvalidRow> {
    let Value::Object(reading) = tree else { return Err(InvalidRow::NotAnObject(kind(tree))) };
    let said = |name| reading.get(name).filter(|value| !value.is_null());
    match said("deviceId") {
        None => return Err(InvalidRow::Lacks("deviceId")),
        Some(Value::String(id)) if id.parse() == Ok(DEVICE) => {}
        Some(Value::String(id)) => return Err(InvalidRow::OtherDevice(id.chars().take(64).collect())),
        Some(other) => return Err(InvalidRow::OtherDevice(kind(other).to_string())),
    }
    if said("triggerTime").is_none() {
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

/// Deeper than 128 levels, a number beyond f64, half a surrogate pair.
fn only_a_tree_minds(error: &serde_json::Error) -> bool {
    let text = error.to_string();
    ["recursion limit exceeded", "number out of range", "hex escape"].iter().any(|cause| text.contains(cause))
}

/// The same object, with a field before all others that ET does not look at, and that a tree would not be built of.
fn with_much_more(input: &[u8], tree: &Value) -> Vec<u8> {
    let Value::Object(reading) = tree else { return input.to_vec() };
    let brace = input.iter().position(|&byte| byte == b'{').expect("an object");
    let comma = if reading.is_empty() { "" } else { "," };
    let more = format!(r#"{{"x":{}["\ud800",1e999]{}{comma}"#, "[".repeat(150), "]".repeat(150));
    [more.as_bytes(), &input[brace + 1..]].concat()
}
