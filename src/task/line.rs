//! What a task's log says. The first two are the contract's, to the letter; the others are ours.

use std::{fmt::Write as _, time::Duration};

use uuid::Uuid;

use super::{JobCounts, Line, QuarantinedRow};

/// How many rows or devices a line names before it only counts.
const NAMED: usize = 10;

fn ok(message: String) -> Line {
    Line { ok: true, message }
}

fn failure(message: String) -> Line {
    Line { ok: false, message }
}

/// Fields of the request that are not known, and were ignored (`server.unknown_fields`).
pub fn ignored(fields: &[String]) -> Line {
    let mut message =
        format!("not known and ignored in the request: {}", fields.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "));
    if let Some(more) = fields.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let _ = write!(message, "; and {more} more");
    }
    ok(message)
}

/// The rows of a device were counted.
pub fn counted(device: Uuid, name: &str, rows: u64) -> Line {
    ok(format!("device: {device} - {name} has {rows} rows to publish"))
}

/// So many rows of a device are acknowledged.
pub fn published(device: Uuid, published: u64, rows: u64) -> Line {
    ok(format!("iota data published({published} / {rows}). device: {device}"))
}

/// The store held other rows when they were read than when they were counted.
pub fn recounted(device: Uuid, counted: u64, read: u64) -> Line {
    ok(format!(
        "device: {device} had {counted} rows when they were counted and {read} when they were read: the store was written to meanwhile"
    ))
}

/// Something about the store that whoever reads the result should know.
pub fn note(device: Uuid, text: &str) -> Line {
    ok(format!("device: {device}: {text}"))
}

/// Rows that are not published.
pub fn held(device: Uuid, rows: &[QuarantinedRow]) -> Line {
    let mut message = format!("device: {device} - {} held back, not published: ", plural(rows.len() as u64, "row"));
    for (index, row) in rows.iter().take(NAMED).enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        let _ = write!(message, "{separator}key {} at {}: {}", row.position.key, time(row.position.time_us), row.reason);
    }
    if let Some(more) = rows.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let _ = write!(message, "; and {more} more");
    }
    ok(message)
}

/// Something that the job needs is away.
pub fn waiting(device: Uuid, reason: &str, published: u64, wait: Duration) -> Line {
    ok(format!(
        "device: {device} waits, nothing is lost ({} safe): {reason}. Trying again in {:.1} s",
        plural(published, "row"),
        wait.as_secs_f64()
    ))
}

/// Kafka acknowledges nothing, and says nothing either.
pub fn stalled(device: Uuid, published: u64, since: Duration) -> Line {
    ok(format!(
        "device: {device} waits, nothing is lost ({} safe): Kafka has acknowledged nothing for {} s. It goes on by itself",
        plural(published, "row"),
        since.as_secs()
    ))
}

/// A worker died, and another goes on.
pub fn taken_over(device: Uuid, published: u64) -> Line {
    ok(format!("device: {device} goes on after {}: its worker was gone", plural(published, "row")))
}

/// The task was cancelled while the device was published.
pub fn cancelled(device: Uuid, published: u64, unanswered: u64) -> Line {
    let mut message = format!("device: {device} is cancelled after {}", plural(published, "row"));
    if unanswered > 0 {
        let _ = write!(message, "; up to {} on the wire to Kafka with no answer may still arrive", plural(unanswered, "row"));
    }
    ok(message)
}

/// The task was cancelled, and nobody could tell how far the device had got.
pub fn cancelled_after_crash(device: Uuid, published: u64) -> Line {
    ok(format!(
        "device: {device} is cancelled; its worker was gone. {} are known to be published, and some after them may be",
        plural(published, "row")
    ))
}

/// A device whose entry in the queue cannot be read.
pub fn unreadable_job(reason: &str) -> Line {
    failure(format!("a device failed: {reason}"))
}

/// The device could not be published.
pub fn failed(device: Uuid, name: Option<&str>, reason: &str) -> Line {
    let name = name.map(|name| format!(" - {name}")).unwrap_or_default();
    failure(format!("device: {device}{name} failed: {reason}"))
}

/// The sums of a task that has ended.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    pub jobs: JobCounts,
    pub published: u64,
    pub held: u64,
    /// On the wire to Kafka with no answer when their jobs were cancelled, at the most.
    pub unanswered: u64,
    /// Devices that had no row in the range.
    pub empty: u64,
    pub took: Duration,
    /// The first of the failed devices, with their reasons.
    pub failures: Vec<(String, String)>,
}

impl Summary {
    /// How many failed devices are worth reading for [`finished`].
    pub const FAILURES: u64 = NAMED as u64;
}

/// The last line.
pub fn finished(summary: &Summary) -> Line {
    let Summary { jobs, published, held, unanswered, empty, took, failures } = summary;
    let devices = jobs.succeeded + jobs.failed + jobs.cancelled;
    let mut message = format!(
        "task finished: {} of {}, {} published, {held} held back, in {:.3} s",
        jobs.succeeded,
        plural(devices, "device"),
        plural(*published, "row"),
        took.as_secs_f64()
    );
    if *empty > 0 {
        let _ = write!(message, "; {} had no row in the range", plural(*empty, "device"));
    }
    if *held > 0 {
        message.push_str("; rows held back are not in the topic, the lines above say why");
    }
    if jobs.cancelled > 0 {
        let _ = write!(message, "; {} cancelled", plural(jobs.cancelled, "device"));
    }
    if *unanswered > 0 {
        let _ = write!(message, "; up to {} on the wire to Kafka with no answer may still arrive", plural(*unanswered, "row"));
    }
    if jobs.failed == 0 {
        return ok(message);
    }
    let _ = write!(message, "; {} failed: ", plural(jobs.failed, "device"));
    for (index, (device, reason)) in failures.iter().take(NAMED).enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        let _ = write!(message, "{separator}{device}: {reason}");
    }
    if let Some(more) = jobs.failed.checked_sub(failures.len() as u64).filter(|more| *more > 0) {
        let _ = write!(message, "; and {more} more, each with a line of its own above");
    }
    failure(message)
}

fn plural(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// A position's time, for reading.
pub fn time(time_us: i64) -> String {
    chrono::DateTime::from_timestamp_micros(time_us)
        .map_or_else(|| format!("{time_us} µs"), |time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
}

#[cfg(test)]
mod tests {
    use uuid::uuid;

    use super::*;
    use crate::task::Position;

    const DEVICE: Uuid = uuid!("b34299aa-625e-4404-a580-fde1d7cbc3e8");

    #[test]
    fn the_contracts_lines_to_the_letter() {
        assert_eq!(
            counted(DEVICE, "静力水准仪06", 178).message,
            "device: b34299aa-625e-4404-a580-fde1d7cbc3e8 - 静力水准仪06 has 178 rows to publish"
        );
        assert_eq!(
            published(DEVICE, 178, 178).message,
            "iota data published(178 / 178). device: b34299aa-625e-4404-a580-fde1d7cbc3e8"
        );
    }

    #[test]
    fn long_lists_are_cut() {
        let row =
            |key: i64| QuarantinedRow { position: Position { time_us: key, key: key.to_string() }, reason: "no JSON".to_owned() };
        let rows: Vec<_> = (0..25).map(row).collect();
        let line = held(DEVICE, &rows).message;
        assert!(line.contains("25 rows held back") && line.ends_with("; and 15 more"), "{line}");
        let summary = Summary {
            jobs: JobCounts { failed: 12, succeeded: 1, ..JobCounts::default() },
            failures: (0..10).map(|n| (format!("d{n}"), "gone".to_owned())).collect(),
            ..Summary::default()
        };
        let line = finished(&summary);
        assert!(!line.ok);
        assert!(
            line.message.starts_with("task finished: 1 of 13 devices, 0 rows published")
                && line.message.ends_with("; and 2 more, each with a line of its own above"),
            "{}",
            line.message
        );
    }
}
