//! The request for a task.

use chrono::{DateTime, SecondsFormat, TimeZone};
use data_patch_protocol::task::NewTask;
use serde::Serialize;

/// The devices and the time range of a task.
///
/// Ids and times are sent as given. The service validates them, and names what is invalid.
///
/// ```
/// # use chrono::{DateTime, Utc};
/// # use data_patch_client::Request;
/// let thing = "9d9d14b3-cf77-4cba-934b-faeaf2d153ba";
/// let devices = ["b34299aa-625e-4404-a580-fde1d7cbc3e8"];
/// // A time is a text or one of chrono's types.
/// let to: DateTime<Utc> = "2019-01-15T06:30:00Z".parse().unwrap();
/// let request = Request::new(thing, devices, "2019-01-11 21:03:00", to).topic("savoir_data");
/// assert_eq!(
///     serde_json::to_string(&request).unwrap(),
///     r#"{"src":"iota","thingId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","devices":["b34299aa-625e-4404-a580-fde1d7cbc3e8"],"from":"2019-01-11 21:03:00","to":"2019-01-15T06:30:00Z","topic":"savoir_data"}"#
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names are the wire's")]
pub struct Request {
    src: &'static str,
    thing_id: String,
    devices: Vec<String>,
    from: String,
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
}

impl Request {
    /// Requests the readings of a thing's devices from `from` to `to`, both inclusive, for the
    /// service's default topic.
    #[expect(clippy::needless_pass_by_value, reason = "ids are passed as text and as UUID")]
    pub fn new<D: ToString>(
        thing: impl ToString,
        devices: impl IntoIterator<Item = D>,
        from: impl Into<Moment>,
        to: impl Into<Moment>,
    ) -> Self {
        Self {
            src: "iota",
            thing_id: thing.to_string(),
            devices: devices.into_iter().map(|device| device.to_string()).collect(),
            from: from.into().0,
            to: to.into().0,
            topic: None,
            request_id: None,
        }
    }

    /// Sets the topic.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Sets the idempotency key: a request with the same key creates no second task.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }
}

impl From<&NewTask> for Request {
    fn from(task: &NewTask) -> Self {
        let mut request = Self::new(task.thing, &task.devices, task.from, task.to).topic(&task.topic);
        request.request_id.clone_from(&task.request_id);
        request
    }
}

/// A time in a format that the service accepts (see [`data_patch_protocol::time`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment(String);

impl From<&str> for Moment {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Moment {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl<Z: TimeZone> From<DateTime<Z>> for Moment {
    fn from(time: DateTime<Z>) -> Self {
        Self(time.to_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}
