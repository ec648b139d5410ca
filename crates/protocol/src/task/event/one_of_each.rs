//! Events for tests: at least one of each kind. `tests/it/asyncapi.rs` has this file too, so that a new
//! kind is added in one place.

use std::num::NonZeroU32;

use uuid::Uuid;

use super::{Event, Failure, Position, QuarantinedRow, Requester, Summary, TaskId};

pub fn one_of_each() -> Vec<Event> {
    let (device, reason) = (Uuid::from_u128(7), "Kafka is unavailable".to_owned());
    let row = QuarantinedRow { position: Position { time_us: 5, key: "k".into() }, reason: reason.clone() };
    let failures = vec![Failure { device: device.to_string(), reason: reason.clone() }];
    let by = Requester { token: "night-duty".to_owned(), address: "10.0.3.7".to_owned() };
    let (rate, other) = (NonZeroU32::new(500), TaskId(Uuid::from_u128(8)));
    vec![
        Event::Submitted {
            by: by.clone(),
            devices: 7,
            reason: Some(reason.clone()),
            rate,
            lowered_from: NonZeroU32::new(5_000),
            retry_of: Some(other),
        },
        Event::Submitted { by: by.clone(), devices: 7, reason: None, rate: None, lowered_from: None, retry_of: None },
        Event::Overlaps { tasks: vec![other], more: 1 },
        Event::CancelRequested { by: by.clone() },
        Event::Paused { by: by.clone() },
        Event::Resumed { by: by.clone() },
        Event::RateChanged { by: by.clone(), rate },
        Event::RateChanged { by, rate: None },
        Event::fields_ignored(&["a".to_owned()]),
        Event::Counted { device, name: None, total: 2 },
        Event::Published { device, published: 1, total: 2 },
        Event::CountMismatch { device, counted: 2, read: 3 },
        Event::Note { device, note: "a zone".to_owned() },
        Event::quarantined(device, &[row]),
        Event::Waiting { device, published: 1, reason: reason.clone(), retry_ms: 500 },
        Event::Stalled { device, published: 1, silent_seconds: 20 },
        Event::TakenOver { device, published: 1 },
        Event::Cancelled { device, published: 1, unanswered: 2, worker_died: true },
        Event::Cancelled { device, published: 1, unanswered: 2, worker_died: false },
        Event::Failed { device: Some(device), name: Some("水".to_owned()), reason: reason.clone() },
        Event::Failed { device: None, name: None, reason },
        Event::Finished(Summary { published: 2, failures, ..Summary::default() }),
        Event::Text { text: "of an older version".to_owned(), is_error: true },
    ]
}
