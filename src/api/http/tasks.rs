//! The endpoints of tasks, and of the service itself.

use std::num::NonZeroU32;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use uuid::Uuid;
use warp::{
    http::{HeaderValue, StatusCode, header},
    reply::Response,
};

use super::{
    ApiError, Call,
    csv::{Csv, quoted},
    json,
};
use crate::{
    protocol::{
        Submit,
        http::{Limits, PREFIX, Page, QuarantineView, RateRequest, RetryRequest, ServiceView, TaskView, TokenView},
        time::Bound,
    },
    queue::{QuarantineCursor, Steer, TaskFilter},
    service::SubmitOutcome,
    task::{Position, TaskId},
};

const STATES: &str = "it must be one of queued, running, succeeded, failed, cancelled";
pub(super) const CURSOR: &str = "it must be the `next` of the page before";
const UUID: &str = "it must be a UUID";
const MAX_KEY_CHARS: usize = 128;

impl Call<'_> {
    /// `POST /tasks`
    pub async fn submit(&self) -> Result<Response, ApiError> {
        self.query.check(&[])?;
        let tasks = &self.state.tasks;
        let mut submit = Submit::from_body(self.text()?, &self.secret, tasks.policy())?;
        if let Some(key) = self.idempotency_key()? {
            match &submit.task.request_id {
                Some(id) if *id != key => {
                    let expected = "it differs from requestId in the body; send one of them";
                    return Err(ApiError::invalid("Idempotency-Key", &key, expected));
                }
                _ => submit.task.request_id = Some(key),
            }
        }
        let outcome = tasks.submit(&self.caller, submit).await?;
        self.submitted(outcome).await
    }

    fn idempotency_key(&self) -> Result<Option<String>, ApiError> {
        let Some(value) = self.headers.get("idempotency-key") else { return Ok(None) };
        let expected = "it must have 1 to 128 characters, the same for the same request";
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| ApiError::invalid("Idempotency-Key", "", expected))?;
        if !(1..=MAX_KEY_CHARS).contains(&text.chars().count()) || text.contains(&self.secret) {
            return Err(ApiError::invalid("Idempotency-Key", "", expected));
        }
        Ok(Some(text.to_owned()))
    }

    /// 201 for a new task, 200 for one that the same request has created before.
    async fn submitted(&self, outcome: SubmitOutcome) -> Result<Response, ApiError> {
        let (id, status) = match outcome {
            SubmitOutcome::Created(id) => (id, StatusCode::CREATED),
            SubmitOutcome::Existing(row) => (row.id, StatusCode::OK),
        };
        let task = self.state.tasks.show(id).await?;
        let mut response = json(status, &task);
        // The path consists of ASCII characters.
        if let Ok(location) = HeaderValue::try_from(format!("{PREFIX}/tasks/{id}")) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        Ok(response)
    }

    /// `GET /tasks`
    pub async fn list(&self) -> Result<Response, ApiError> {
        let query = &self.query;
        query.check(&["state", "thing", "device", "topic", "since", "until", "q", "cursor", "limit"])?;
        let zone = self.state.tasks.policy().time_zone;
        let since = query.time("since", zone, Bound::From)?;
        let until = query.time("until", zone, Bound::To)?;
        let created_ms = (since.is_some() || until.is_some()).then(|| {
            since.map_or(i64::MIN, |since| since.timestamp_millis())..=until.map_or(i64::MAX, |until| until.timestamp_millis())
        });
        let filter = TaskFilter {
            states: query.parsed_all("state", STATES)?,
            thing: query.parsed("thing", UUID)?,
            device: query.parsed("device", UUID)?,
            topic: query.one("topic")?.map(str::to_owned),
            created_ms,
            text: query.one("q")?.filter(|text| !text.is_empty()).map(str::to_owned),
        };
        let before = query.parsed::<Uuid>("cursor", CURSOR)?.map(TaskId);
        Ok(json(StatusCode::OK, &self.state.tasks.list(&filter, before, query.limit()?).await?))
    }

    /// `GET /tasks/{id}`
    pub async fn show(&self, id: TaskId) -> Result<Response, ApiError> {
        self.query.check(&[])?;
        Ok(json(StatusCode::OK, &self.state.tasks.show(id).await?))
    }

    /// `PATCH /tasks/{id}`
    pub async fn set_rate(&self, id: TaskId) -> Result<Response, ApiError> {
        self.query.check(&[])?;
        let expected = "send {\"rate\": N} with a whole number of rows a second from 1, or {\"rate\": null} for no limit";
        let invalid = |error: String| ApiError::invalid("rate", &error, expected);
        let RateRequest { rate } = object(self.text()?).map_err(|error| invalid(error.to_string()))?;
        let rate = match rate {
            None => None,
            Some(rate) => Some(NonZeroU32::new(rate).ok_or_else(|| invalid("0".to_owned()))?),
        };
        self.steer(id, Steer::Rate(rate)).await
    }

    /// `POST /tasks/{id}/cancel`, `/pause` and `/resume`
    pub async fn steer(&self, id: TaskId, steer: Steer) -> Result<Response, ApiError> {
        self.query.check(&[])?;
        self.state.tasks.steer(&self.caller, id, steer).await?;
        let task: TaskView = self.state.tasks.show(id).await?;
        Ok(json(StatusCode::OK, &task))
    }

    /// `POST /tasks/{id}/retry`
    pub async fn retry(&self, id: TaskId) -> Result<Response, ApiError> {
        self.query.check(&[])?;
        let expected = "it must be \"failed\", \"all\" or an array of device ids";
        let RetryRequest { devices } = match self.text()?.trim() {
            "" => RetryRequest::default(),
            text => object(text).map_err(|error| ApiError::invalid("devices", &error.to_string(), expected))?,
        };
        let outcome = self.state.tasks.retry(&self.caller, id, &devices).await?;
        self.submitted(outcome).await
    }

    /// `GET /tasks/{id}/jobs`
    pub async fn jobs(&self, id: TaskId) -> Result<Response, ApiError> {
        self.query.check(&["state", "cursor", "limit"])?;
        let states = self.query.parsed_all("state", STATES)?;
        let after = self.query.parsed::<u32>("cursor", CURSOR)?.map(u64::from);
        let page = self.state.tasks.jobs(id, &states, after, self.query.limit()?).await?;
        Ok(json(StatusCode::OK, &page))
    }

    /// `GET /tasks/{id}/quarantine`
    pub async fn quarantine(&self, id: TaskId) -> Result<Response, ApiError> {
        self.query.check(&["cursor", "limit"])?;
        let after = match self.query.one("cursor")? {
            None => None,
            Some(text) => Some(parse_cursor(text).ok_or_else(|| ApiError::invalid("cursor", text, CURSOR))?),
        };
        let (items, next) = self.state.tasks.quarantine(id, after.as_ref(), self.query.limit()?).await?;
        let next = next.map(|cursor| show_cursor(&cursor));
        if self.accepts("text/csv") {
            let mut response = csv(&items);
            if let Some(next) = next.and_then(|next| HeaderValue::try_from(next).ok()) {
                response.headers_mut().insert("next-cursor", next);
            }
            return Ok(response);
        }
        Ok(json(StatusCode::OK, &Page { items, next }))
    }

    /// `GET /service`
    pub async fn service(&self) -> Result<Response, ApiError> {
        self.query.check(&[])?;
        let policy = self.state.tasks.policy();
        let rate = |rate: Option<NonZeroU32>| rate.map(NonZeroU32::get);
        let view = ServiceView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.state.queue.owner().to_string(),
            started_at: self.state.started_at.0,
            uptime_seconds: self.state.started_at.1.elapsed().as_secs(),
            queue: self.state.queue.kind().to_owned(),
            instances: self.state.tasks.instances().await?,
            token: TokenView { name: self.caller.token.to_string(), role: self.caller.role },
            limits: Limits {
                max_devices: policy.max_devices as u64,
                max_body_bytes: self.state.config.max_message_bytes as u64,
                default_topic: policy.default_topic.clone(),
                topics: policy.topics.clone(),
                time_zone: policy.time_zone.name().to_owned(),
                retention_days: self.state.retention_days,
                default_rate: rate(policy.default_rate),
                max_rate: rate(policy.max_rate),
            },
        };
        Ok(json(StatusCode::OK, &view))
    }

    /// `POST /instances/{id}/drain`, and `/resume`
    pub async fn drain(&self, instance: Uuid, drains: bool) -> Result<Response, ApiError> {
        self.query.check(&[])?;
        Ok(json(StatusCode::OK, &self.state.tasks.drain(&self.caller, instance, drains).await?))
    }
}

/// Parses a JSON object. A struct could also be read from an array of its values.
fn object<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str::<Map<String, Value>>(text)?;
    serde_json::from_str(text)
}

fn show_cursor((device, position): &QuarantineCursor) -> String {
    format!("{device}.{}.{}", position.time_us, position.key)
}

fn parse_cursor(text: &str) -> Option<QuarantineCursor> {
    let mut parts = text.splitn(3, '.');
    let device = parts.next()?.parse().ok()?;
    let time_us = parts.next()?.parse().ok()?;
    Some((device, Position { time_us, key: parts.next()?.to_owned().into() }))
}

fn csv(rows: &[QuarantineView]) -> Response {
    let mut csv = Csv::new(&["deviceId", "time", "key", "reason"]);
    for QuarantineView { device_id, time, key, reason } in rows {
        csv.row(&[device_id, time, &quoted(key), &quoted(reason)]);
    }
    csv.response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        for key in ["17", "a.b.c", "", "水"] {
            let cursor = (Uuid::from_u128(7), Position { time_us: -5, key: key.to_owned().into() });
            let parsed = parse_cursor(&show_cursor(&cursor)).unwrap();
            assert_eq!((parsed.0, parsed.1.time_us, parsed.1.key.to_string()), (cursor.0, -5, key.to_owned()));
        }
        assert!(parse_cursor("x").is_none() && parse_cursor("").is_none());
    }
}
