//! How the entries of a task's log are numbered. Pure.

use crate::task::{Event, LogEntry, TaskId, TaskState};

/// The entries that `events` become at the end of a log whose last entry is `last_seq`, or 0. The
/// numbers of a log begin with 1 and have no gap, so that a reader sees whether it has missed one.
/// With `final_state`, the last of them finishes the task.
///
/// A store reads `last_seq` and writes the entries in the same transaction.
pub fn number(task: TaskId, last_seq: u64, wall_ms: i64, events: Vec<Event>, final_state: Option<TaskState>) -> Vec<LogEntry> {
    let last = last_seq + events.len() as u64;
    (last_seq + 1..)
        .zip(events)
        .map(|(seq, event)| LogEntry { task, seq, at_ms: wall_ms, event, final_state: final_state.filter(|_| seq == last) })
        .collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// Numbers so many events after `last_seq`.
    fn numbered(last_seq: u64, events: usize, final_state: Option<TaskState>) -> Vec<(u64, Option<TaskState>)> {
        let task = TaskId(Uuid::from_u128(7));
        let event = Event::Note { device: Uuid::from_u128(1), note: "a zone".to_owned() };
        let entries = number(task, last_seq, 5, vec![event; events], final_state);
        assert!(entries.iter().all(|entry| entry.task == task && entry.at_ms == 5));
        entries.into_iter().map(|entry| (entry.seq, entry.final_state)).collect()
    }

    #[test]
    fn numbers_begin_with_one_and_go_on_without_a_gap() {
        assert_eq!(numbered(0, 2, None), [(1, None), (2, None)]);
        assert_eq!(numbered(2, 1, None), [(3, None)]);
        assert_eq!(numbered(3, 0, None), []);
    }

    #[test]
    fn only_the_last_of_them_finishes_the_task() {
        let failed = Some(TaskState::Failed);
        assert_eq!(numbered(2, 2, failed), [(3, None), (4, failed)]);
    }
}
