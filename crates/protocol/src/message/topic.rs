//! Which Kafka topics a task may be published to.

use serde_json::Value;

use super::{RequestPolicy, described, invalid, quoted};
use crate::RequestError;

const MAX_TOPIC_CHARS: usize = 249;

/// The topic of a request.
pub(super) fn topic(value: &Value, policy: &RequestPolicy) -> Result<String, RequestError> {
    let expected = "a topic name has 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-', and is neither \".\" nor \"..\"";
    let name = value.as_str().ok_or_else(|| invalid("topic", described(value), expected))?;
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > MAX_TOPIC_CHARS || !name.bytes().all(is_legal) || name == "." || name == ".." {
        return Err(invalid("topic", format!("{}, which is not a legal topic name", quoted(name)), expected));
    }
    ensure_allowed_topic(name, policy)?;
    Ok(name.to_owned())
}

/// Checks that a topic is one that the policy allows. A topic that a task was allowed before may
/// not be any more.
///
/// # Errors
/// It is not in the list of allowed topics, or is one of Kafka's own.
pub fn ensure_allowed_topic(name: &str, policy: &RequestPolicy) -> Result<(), RequestError> {
    if policy.topics.is_empty() {
        if name.starts_with("__") {
            return Err(invalid(
                "topic",
                format!("{}, which is one of Kafka's internal topics", quoted(name)),
                "name the topic that ET consumes",
            ));
        }
    } else if !policy.topics.iter().any(|allowed| allowed == name) {
        let expected = format!("allowed are {}", policy.topics.join(", "));
        return Err(invalid("topic", format!("{}, which is not allowed here", quoted(name)), expected));
    }
    Ok(())
}
