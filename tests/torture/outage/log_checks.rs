//! Checks the log of a task that was disturbed by outages, line by line.

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use crate::support::{is_end, message, seqs};

/// Parses `iota data published(k / n). device: id` as (k, n, id).
pub fn published(line: &str) -> Option<(usize, usize, Uuid)> {
    let (counts, device) = line.strip_prefix("iota data published(")?.split_once("). device: ")?;
    let (published, rows) = counts.split_once(" / ")?;
    Some((published.parse().ok()?, rows.parse().ok()?, device.parse().ok()?))
}

/// Parses `device: id waits, nothing is lost (k rows safe): …` as (k, id, reason).
pub fn waits(line: &str) -> Option<(usize, Uuid, &str)> {
    let (device, rest) = line.strip_prefix("device: ")?.split_once(" waits, nothing is lost (")?;
    let (acknowledged, reason) = rest.split_once(" safe): ")?;
    let acknowledged = acknowledged.split_once(" row")?.0;
    Some((acknowledged.parse().ok()?, device.parse().ok()?, reason))
}

/// Parses `device: id resumes after k rows: its previous worker was lost` as (k, id).
fn taken_over(line: &str) -> Option<(usize, Uuid)> {
    let (device, rest) = line.strip_prefix("device: ")?.split_once(" resumes after ")?;
    Some((rest.split_once(" row")?.0.parse().ok()?, device.parse().ok()?))
}

/// The number of takeovers; the worker is alive all the time.
pub fn takeovers(log: &[Value]) -> usize {
    log.iter().filter(|line| taken_over(message(line)).is_some()).count()
}

/// Asserts that the lines are consecutive, report no error, and are only about counts, progress,
/// waiting and takeovers; that for each device the count comes first, progress never decreases, and
/// all rows are published; and that the last line ends the task.
pub fn assert_exact(log: &[Value], devices: &[Uuid], rows: usize) {
    assert_eq!(seqs(log), (1..=log.len() as u64).collect::<Vec<_>>());
    let (last, lines) = log.split_last().unwrap();
    let mut acknowledged = HashMap::<Uuid, usize>::new();
    for line in lines {
        let text = message(line);
        assert!(line["res"] == "ok" && !is_end(line), "{line}");
        if let Some((device, _)) = text.strip_prefix("device: ").and_then(|rest| rest.split_once(" - "))
            && text.ends_with(&format!(" has {rows} rows to publish"))
        {
            assert!(acknowledged.insert(device.parse().unwrap(), 0).is_none(), "counted twice: {line}");
            continue;
        }
        if let Some((now, of, device)) = published(text) {
            assert_eq!(of, rows, "{line}");
            let before = acknowledged.insert(device, now).unwrap_or_else(|| panic!("published before it was counted: {line}"));
            assert!(before < now, "{before} rows were acknowledged before: {line}");
        } else {
            // A device may wait before it is counted.
            let waits = waits(text).map(|(acknowledged, device, _)| (acknowledged, device));
            let (now, device) = waits.or_else(|| taken_over(text)).unwrap_or_else(|| panic!("unexpected: {line}"));
            let before = acknowledged.get(&device).copied().unwrap_or_default();
            assert!(before <= now && now <= rows, "{before} rows were acknowledged before: {line}");
        }
    }
    assert_eq!(acknowledged.len(), devices.len());
    assert!(devices.iter().all(|device| acknowledged.get(device) == Some(&rows)), "a device has no last line: {acknowledged:?}");
    let (all, sum) = (devices.len(), devices.len() * rows);
    assert_eq!((&last["res"], &last["payload"]["state"]), (&"ok".into(), &"succeeded".into()), "{last}");
    let s = if all == 1 { "" } else { "s" };
    let expected = format!("task finished: {all} of {all} device{s}, {sum} rows published, 0 quarantined, in ");
    assert!(message(last).starts_with(&expected), "{last}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed() {
        let id = Uuid::nil();
        assert_eq!(published(&format!("iota data published(3 / 7). device: {id}")), Some((3, 7, id)));
        let line = format!("device: {id} waits, nothing is lost (1 row safe): Kafka is unavailable. Trying again in 0.5 s");
        assert_eq!(waits(&line), Some((1, id, "Kafka is unavailable. Trying again in 0.5 s")));
        assert_eq!(waits(&format!("device: {id} - x has 7 rows to publish")), None);
        assert_eq!(taken_over(&format!("device: {id} resumes after 2 rows: its previous worker was lost")), Some((2, id)));
    }
}
