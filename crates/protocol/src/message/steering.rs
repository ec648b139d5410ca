//! Messages that steer a task: which change they ask for, and the limits of a rate.

use std::num::NonZeroU32;

use serde_json::Value;

use super::{RequestPolicy, described, invalid};
use crate::{RequestError, fields::Fields};

/// A change to a task that exists. Durable when it is answered; repeating it is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering {
    /// Stops publishing the task for good.
    Cancel,
    /// Stops its jobs until the task is resumed.
    Pause,
    Resume,
    /// Sets the most rows a second of the whole task; `None`: no limit.
    Rate(Option<NonZeroU32>),
    /// Creates a new task for the devices that failed or were cancelled.
    Retry,
}

/// What a message about a task asks for, or `None` if it only attaches.
pub(super) fn steering(fields: &Fields<'_>, policy: &RequestPolicy) -> Result<Option<Steering>, RequestError> {
    let flags =
        [("cancel", Steering::Cancel), ("pause", Steering::Pause), ("resume", Steering::Resume), ("retry", Steering::Retry)];
    let mut asked = Vec::new();
    for (name, steering) in flags {
        match fields.optional(name) {
            None | Some(Value::Bool(false)) => {}
            Some(Value::Bool(true)) => asked.push((name, steering)),
            Some(value) => {
                let expected = "true steers the task; false, or no such field, attaches to it";
                return Err(invalid(name, described(value), expected));
            }
        }
    }
    // `null` is a value here: it removes the limit.
    if fields.all.contains_key("rate") {
        asked.push(("rate", Steering::Rate(checked_rate(fields, policy)?)));
    }
    if let [_, (second, _), ..] = asked.as_slice() {
        let names: Vec<_> = asked.iter().map(|(name, _)| *name).collect();
        return Err(invalid(*second, format!("given together with others ({})", names.join(", ")), "send one message for each"));
    }
    Ok(asked.pop().map(|(_, steering)| steering))
}

/// Checks a rate; without one, the policy's default applies.
///
/// # Errors
/// It is no number from 1, or over the limit.
pub fn rate_within(rate: Option<NonZeroU32>, policy: &RequestPolicy) -> Result<Option<NonZeroU32>, RequestError> {
    match (rate, policy.max_rate) {
        (Some(rate), Some(max)) if rate > max => Err(invalid(
            "rate",
            format!("the number {rate}"),
            format!("at most {max} rows a second are allowed here (limits.max_rate)"),
        )),
        (rate, _) => Ok(lowered_rate(rate, policy)),
    }
}

/// The rate of a task that is tried again, brought within the policy's limit as it is now. A retry
/// names no rate, so a rate that has become too high could not be corrected if it were refused; a
/// lower one only takes longer.
pub fn lowered_rate(rate: Option<NonZeroU32>, policy: &RequestPolicy) -> Option<NonZeroU32> {
    match (rate, policy.max_rate) {
        (Some(rate), Some(max)) => Some(rate.min(max)),
        (None, Some(max)) => Some(policy.default_rate.unwrap_or(max).min(max)),
        (rate, None) => rate,
    }
}

/// The rate of a message, within the policy's limit; `null` means no limit.
pub(super) fn checked_rate(fields: &Fields<'_>, policy: &RequestPolicy) -> Result<Option<NonZeroU32>, RequestError> {
    let expected = "a whole number of rows a second from 1, or null for no limit";
    let rate = match fields.optional("rate") {
        None => None,
        Some(value) => {
            let rate = value.as_u64().and_then(|rate| u32::try_from(rate).ok()).and_then(NonZeroU32::new);
            Some(rate.ok_or_else(|| invalid("rate", described(value), expected))?)
        }
    };
    rate_within(rate, policy)
}
