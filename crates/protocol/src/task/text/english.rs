//! The English texts.

use std::fmt::Write as _;

use super::seconds;
use crate::{
    task::{Event, Requester, Summary},
    time::show_micros,
};

pub(super) fn text(event: &Event) -> String {
    match event {
        Event::Submitted { .. }
        | Event::Overlaps { .. }
        | Event::CancelRequested { .. }
        | Event::Paused { .. }
        | Event::Resumed { .. }
        | Event::RateChanged { .. } => of_request(event),
        Event::FieldsIgnored { fields, more } => {
            let mut text = format!("unknown fields in the request are ignored: {}", fields.join(", "));
            and_more(&mut text, *more);
            text
        }
        Event::Counted { device, name, total } => {
            format!("device: {device} - {} has {total} rows to publish", name.as_deref().unwrap_or("-"))
        }
        Event::Published { device, published, total } => {
            format!("iota data published({published} / {total}). device: {device}")
        }
        Event::CountMismatch { device, counted, read } => format!(
            "device: {device} had {counted} rows when they were counted and {read} when they were read: \
             the IoTA source was written to in between"
        ),
        Event::Note { device, note } => format!("device: {device}: {note}"),
        Event::Quarantined { device, rows, first } => {
            let mut text = format!("device: {device} - {} quarantined, not published: ", plural(*rows, "row"));
            for (index, row) in first.iter().enumerate() {
                let separator = if index == 0 { "" } else { "; " };
                let _ =
                    write!(text, "{separator}key {} at {}: {}", row.position.key, show_micros(row.position.time_us), row.reason);
            }
            and_more(&mut text, rows.saturating_sub(first.len() as u64));
            text
        }
        Event::Waiting { device, published, reason, retry_ms } => format!(
            "device: {device} waits, nothing is lost ({} safe): {reason}. Trying again in {:.1} s",
            plural(*published, "row"),
            seconds(*retry_ms)
        ),
        Event::Stalled { device, published, silent_seconds } => format!(
            "device: {device} waits, nothing is lost ({} safe): \
             Kafka has acknowledged nothing for {silent_seconds} s. It continues when Kafka does",
            plural(*published, "row")
        ),
        Event::TakenOver { device, published } => {
            format!("device: {device} resumes after {}: its previous worker was lost", plural(*published, "row"))
        }
        Event::Cancelled { device, published, worker_died: true, .. } => format!(
            "device: {device} is cancelled; its worker was lost. \
             {} are known to be published, more may be",
            plural(*published, "row")
        ),
        Event::Cancelled { device, published, unanswered, worker_died: false } => {
            let mut text = format!("device: {device} is cancelled after {}", plural(*published, "row"));
            and_unanswered(&mut text, *unanswered);
            text
        }
        Event::Failed { device: None, reason, .. } => format!("a device failed: {reason}"),
        Event::Failed { device: Some(device), name, reason } => {
            let name = name.as_ref().map(|name| format!(" - {name}")).unwrap_or_default();
            format!("device: {device}{name} failed: {reason}")
        }
        Event::Finished(summary) => finished(summary),
        Event::Text { text, .. } => text.clone(),
    }
}

/// What was asked for, and by whom.
fn of_request(event: &Event) -> String {
    match event {
        Event::Submitted { by, devices, reason, rate, lowered_from, retry_of } => {
            let mut text = format!("task submitted by {}: {}", requester(by), plural(*devices, "device"));
            if let Some(task) = retry_of {
                let _ = write!(text, " of task {task}, tried again");
            }
            if let Some(rate) = rate {
                let _ = write!(text, ", at most {} a second", plural(u64::from(rate.get()), "row"));
            }
            if let Some(lowered_from) = lowered_from {
                let _ = write!(text, " (lowered from {lowered_from}: more is not allowed any longer, limits.max_rate)");
            }
            if let Some(reason) = reason {
                let _ = write!(text, "; reason: {reason}");
            }
            text
        }
        Event::Overlaps { tasks, more } => {
            let tasks: Vec<_> = tasks.iter().map(ToString::to_string).collect();
            let mut text = format!(
                "some of these rows are in this topic already, or will be: task {} has the same devices in an overlapping range",
                tasks.join(", ")
            );
            and_more(&mut text, *more);
            text
        }
        Event::CancelRequested { by } => format!("the task is being cancelled by {}", requester(by)),
        Event::Paused { by } => {
            format!("paused by {}; nothing is lost, it goes on where it is once it is resumed", requester(by))
        }
        Event::Resumed { by } => format!("resumed by {}", requester(by)),
        Event::RateChanged { by, rate: Some(rate) } => {
            format!("at most {} a second from now on, set by {}", plural(u64::from(rate.get()), "row"), requester(by))
        }
        Event::RateChanged { by, rate: None } => format!("no limit of rows a second from now on, set by {}", requester(by)),
        _ => String::new(),
    }
}

fn finished(summary: &Summary) -> String {
    let Summary { devices, published, quarantined, unanswered, empty_devices, took_ms, failures } = summary;
    let all = devices.total();
    let mut text = format!(
        "task finished: {} of {}, {} published, {quarantined} quarantined, in {:.3} s",
        devices.succeeded_devices,
        plural(all, "device"),
        plural(*published, "row"),
        seconds(*took_ms)
    );
    if *empty_devices > 0 {
        let _ = write!(text, "; {} had no row in the range", plural(*empty_devices, "device"));
    }
    if *quarantined > 0 {
        text.push_str("; quarantined rows are not in the topic, the entries above say why");
    }
    if devices.cancelled_devices > 0 {
        let _ = write!(text, "; {} cancelled", plural(devices.cancelled_devices, "device"));
    }
    and_unanswered(&mut text, *unanswered);
    if devices.failed_devices == 0 {
        return text;
    }
    let _ = write!(text, "; {} failed: ", plural(devices.failed_devices, "device"));
    for (index, failure) in failures.iter().enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        let _ = write!(text, "{separator}{}: {}", failure.device, failure.reason);
    }
    if let more @ 1.. = devices.failed_devices.saturating_sub(failures.len() as u64) {
        let _ = write!(text, "; and {more} more, each with an entry above");
    }
    text
}

fn requester(by: &Requester) -> String {
    format!("{} ({})", by.token, by.address)
}

fn and_more(text: &mut String, more: u64) {
    if more > 0 {
        let _ = write!(text, "; and {more} more");
    }
}

fn and_unanswered(text: &mut String, rows: u64) {
    if rows > 0 {
        let _ =
            write!(text, "; up to {} that were sent to Kafka without an acknowledgement may still arrive", plural(rows, "row"));
    }
}

fn plural(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use uuid::{Uuid, uuid};

    use super::*;
    use crate::task::{DeviceCounts, Failure, Position, QuarantinedRow, RowKey};

    const DEVICE: Uuid = uuid!("b34299aa-625e-4404-a580-fde1d7cbc3e8");

    #[test]
    fn the_texts_of_the_contract_to_the_letter() {
        let counted = Event::Counted { device: DEVICE, name: Some("静力水准仪06".to_owned()), total: 178 };
        assert_eq!(text(&counted), "device: b34299aa-625e-4404-a580-fde1d7cbc3e8 - 静力水准仪06 has 178 rows to publish");
        assert_eq!(
            text(&Event::Published { device: DEVICE, published: 178, total: 178 }),
            "iota data published(178 / 178). device: b34299aa-625e-4404-a580-fde1d7cbc3e8"
        );
    }

    #[test]
    fn long_lists_are_truncated() {
        let row = |key: i64| QuarantinedRow {
            position: Position { time_us: key, key: RowKey::Integer(key) },
            reason: "no JSON".to_owned(),
        };
        let rows: Vec<_> = (0..25).map(row).collect();
        let line = text(&Event::quarantined(DEVICE, &rows));
        assert!(line.contains("25 rows quarantined") && line.ends_with("; and 15 more"), "{line}");
        let failure = |n| Failure { device: format!("d{n}"), reason: "gone".to_owned() };
        let devices = DeviceCounts { succeeded_devices: 1, failed_devices: 12, cancelled_devices: 0 };
        let event = Event::Finished(Summary { devices, failures: (0..10).map(failure).collect(), ..Summary::default() });
        assert!(event.is_error());
        let line = text(&event);
        assert!(
            line.starts_with("task finished: 1 of 13 devices, 0 rows published")
                && line.ends_with("; and 2 more, each with an entry above"),
            "{line}"
        );
    }
}
