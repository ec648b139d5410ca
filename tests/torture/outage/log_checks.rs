//! What a task's log must be, line for line, when everything was taken away and given back and nothing was lost.

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use crate::support::{is_end, message, seqs};

/// `iota data published(k / n). device: id`, taken apart: k, n, id.
pub fn published(line: &str) -> Option<(usize, usize, Uuid)> {
    let (counts, device) = line.strip_prefix("iota data published(")?.split_once("). device: ")?;
    let (published, rows) = counts.split_once(" / ")?;
    Some((published.parse().ok()?, rows.parse().ok()?, device.parse().ok()?))
}

/// `device: id waits, nothing is lost (k rows safe): …`, taken apart: k, id, the reason.
pub fn waits(line: &str) -> Option<(usize, Uuid, &str)> {
    let (device, rest) = line.strip_prefix("device: ")?.split_once(" waits, nothing is lost (")?;
    let (safe, reason) = rest.split_once(" safe): ")?;
    let safe = safe.split_once(" row")?.0;
    Some((safe.parse().ok()?, device.parse().ok()?, reason))
}

/// `device: id resumes after k rows: its previous worker was lost`, taken apart: k, id.
fn taken_over(line: &str) -> Option<(usize, Uuid)> {
    let (device, rest) = line.strip_prefix("device: ")?.split_once(" resumes after ")?;
    Some((rest.split_once(" row")?.0.parse().ok()?, device.parse().ok()?))
}

/// How often a device was taken from its worker, which is alive all the time.
pub fn takeovers(log: &[Value]) -> usize {
    log.iter().filter(|line| taken_over(message(line)).is_some()).count()
}

/// Each line once and numbered, no error, nothing but counts, progress, waiting and takeovers. Of each device the count comes
/// first, what is safe never shrinks, and the last line says that all of it is. The end comes last.
pub fn assert_exact(log: &[Value], devices: &[Uuid], rows: usize) {
    assert_eq!(seqs(log), (1..=log.len() as u64).collect::<Vec<_>>());
    let (last, lines) = log.split_last().unwrap();
    let mut safe = HashMap::<Uuid, usize>::new();
    for line in lines {
        let text = message(line);
        assert!(line["res"] == "ok" && !is_end(line), "{line}");
        if let Some((device, _)) = text.strip_prefix("device: ").and_then(|rest| rest.split_once(" - "))
            && text.ends_with(&format!(" has {rows} rows to publish"))
        {
            assert!(safe.insert(device.parse().unwrap(), 0).is_none(), "counted twice: {line}");
            continue;
        }
        if let Some((now, of, device)) = published(text) {
            assert_eq!(of, rows, "{line}");
            let before = safe.insert(device, now).unwrap_or_else(|| panic!("before it was counted: {line}"));
            assert!(before < now, "{before} rows were safe already: {line}");
        } else {
            // A device may wait before it is counted.
            let waits = waits(text).map(|(safe, device, _)| (safe, device));
            let (now, device) = waits.or_else(|| taken_over(text)).unwrap_or_else(|| panic!("nobody expects it: {line}"));
            let before = safe.get(&device).copied().unwrap_or_default();
            assert!(before <= now && now <= rows, "{before} rows were safe already: {line}");
        }
    }
    assert_eq!(safe.len(), devices.len());
    assert!(devices.iter().all(|device| safe.get(device) == Some(&rows)), "a device has no last line: {safe:?}");
    let (all, sum) = (devices.len(), devices.len() * rows);
    assert_eq!((&last["res"], &last["payload"]["state"]), (&"ok".into(), &"succeeded".into()), "{last}");
    let s = if all == 1 { "" } else { "s" };
    let told = format!("task finished: {all} of {all} device{s}, {sum} rows published, 0 quarantined, in ");
    assert!(message(last).starts_with(&told), "{last}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let id = Uuid::nil();
        assert_eq!(published(&format!("iota data published(3 / 7). device: {id}")), Some((3, 7, id)));
        let line = format!("device: {id} waits, nothing is lost (1 row safe): Kafka is unavailable. Trying again in 0.5 s");
        assert_eq!(waits(&line), Some((1, id, "Kafka is unavailable. Trying again in 0.5 s")));
        assert_eq!(waits(&format!("device: {id} - x has 7 rows to publish")), None);
        assert_eq!(taken_over(&format!("device: {id} resumes after 2 rows: its previous worker was lost")), Some((2, id)));
    }
}
