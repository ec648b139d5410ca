//! How the slots of a claim are shared among the due tasks. Pure.
//!
//! Each task gets an equal share of the slots. A task with fewer due jobs than its share leaves the
//! rest to the others, which share it in another round (max-min fairness). Topics have limits of
//! their own, and so have the jobs that are suspected of crashing their instance.
//!
//! The store asks for one turn after the other and says what came of each, because only it knows
//! how many jobs are due: it may ask its tables task by task, or read enough due jobs of all tasks
//! at once and take the turns in memory.

use std::collections::{HashMap, VecDeque};

use crate::ClaimLimits;

/// The turns of one claim.
#[derive(Debug)]
pub struct Turns<'a> {
    /// The topic of each task, in the order of their turns.
    topics: Vec<&'a str>,
    /// Slots that no job occupies yet.
    slots: usize,
    topics_left: HashMap<String, usize>,
    suspects: usize,
    /// Suspects that may still be leased. `None` while the queue has no suspect.
    suspects_left: Option<usize>,
    /// The tasks whose turn of this round is still to come.
    round: VecDeque<usize>,
    /// Slots that this round can still share.
    unshared: usize,
    /// The tasks that may have further due jobs.
    next_round: VecDeque<usize>,
}

/// The turn of a task: at most `jobs` of its due jobs may be leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The index of the task.
    pub task: usize,
    pub jobs: usize,
}

/// What came of a turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leased {
    /// The leased jobs.
    pub jobs: usize,
    /// How many of them are suspects.
    pub suspects: usize,
    /// How many of them ended at once ([`start`](super::claim::start)) and occupy no slot.
    pub ended: usize,
}

impl<'a> Turns<'a> {
    /// The turns of tasks with these topics, the least recently served task first.
    pub fn new(limits: ClaimLimits, topics: impl IntoIterator<Item = &'a str>) -> Self {
        let topics: Vec<_> = topics.into_iter().collect();
        Self {
            slots: limits.jobs,
            topics_left: limits.topics,
            suspects: limits.suspects,
            suspects_left: None,
            round: VecDeque::new(),
            unshared: 0,
            next_round: (0..topics.len()).collect(),
            topics,
        }
    }

    /// The next turn, or `None` when the slots are occupied or no task has a due job left.
    pub fn next(&mut self) -> Option<Turn> {
        loop {
            if self.round.is_empty() {
                if self.slots == 0 {
                    return None;
                }
                (self.unshared, self.round) = (self.slots, std::mem::take(&mut self.next_round));
            }
            let tasks = self.round.len();
            let task = self.round.pop_front()?;
            // An equal share, rounded up so that no slot stays unused.
            let fair = self.unshared.div_ceil(tasks);
            let left = self.topics.get(task).and_then(|topic| self.topics_left.get(*topic));
            let jobs = left.map_or(fair, |left| fair.min(*left));
            if jobs > 0 {
                self.unshared -= jobs;
                return Some(Turn { task, jobs });
            }
        }
    }

    /// Takes note of what came of a turn.
    pub fn record(&mut self, turn: Turn, leased: Leased) {
        self.slots = self.slots.saturating_sub(leased.jobs.saturating_sub(leased.ended));
        if let Some(left) = self.topics.get(turn.task).and_then(|topic| self.topics_left.get_mut(*topic)) {
            *left = left.saturating_sub(leased.jobs);
        }
        if let Some(left) = &mut self.suspects_left {
            *left = left.saturating_sub(leased.suspects);
        }
        if leased.jobs == turn.jobs {
            self.next_round.push_back(turn.task);
        }
    }

    /// Limits the suspects from now on, because the queue has one.
    pub fn limit_suspects(&mut self) {
        self.suspects_left.get_or_insert(self.suspects);
    }

    /// How many suspects the next jobs may contain; the others come after them. `None` means that
    /// no job is a suspect, so that they need not be told apart.
    pub fn suspects_left(&self) -> Option<usize> {
        self.suspects_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task, by its topic, its due suspects and its other due jobs.
    type Task = (&'static str, usize, usize);

    fn limits(jobs: usize, topics: &[(&str, usize)], suspects: usize) -> ClaimLimits {
        let topics = topics.iter().map(|(topic, limit)| ((*topic).to_owned(), *limit)).collect();
        ClaimLimits { jobs, topics, suspects }
    }

    /// How many jobs of each task are leased, if none ends at once.
    fn shared(limits: ClaimLimits, tasks: &[Task]) -> Vec<usize> {
        let mut left = tasks.to_vec();
        let mut turns = Turns::new(limits, tasks.iter().map(|(topic, ..)| *topic));
        if tasks.iter().any(|(_, suspects, _)| *suspects > 0) {
            turns.limit_suspects();
        }
        let mut shared = vec![0; tasks.len()];
        while let Some(turn) = turns.next() {
            let (_, suspects_due, others_due) = &mut left[turn.task];
            let suspects = turns.suspects_left().unwrap_or(0).min(turn.jobs).min(*suspects_due);
            let others = (turn.jobs - suspects).min(*others_due);
            (*suspects_due, *others_due) = (*suspects_due - suspects, *others_due - others);
            shared[turn.task] += suspects + others;
            turns.record(turn, Leased { jobs: suspects + others, suspects, ended: 0 });
        }
        shared
    }

    #[test]
    fn tasks_share_the_slots_equally_whatever_their_size() {
        assert_eq!(shared(limits(8, &[], 1), &[("t", 0, 1_000), ("t", 0, 10)]), [4, 4]);
        assert_eq!(shared(limits(8, &[], 1), &[("t", 0, 9), ("t", 0, 9), ("t", 0, 9)]), [3, 3, 2]);
        assert_eq!(shared(limits(1, &[], 1), &[("t", 0, 9), ("t", 0, 9)]), [1, 0]);
    }

    #[test]
    fn what_a_small_task_leaves_goes_to_the_others() {
        assert_eq!(shared(limits(9, &[], 1), &[("t", 0, 1), ("t", 0, 1_000), ("t", 0, 2)]), [1, 6, 2]);
        assert_eq!(shared(limits(9, &[], 1), &[("t", 0, 1), ("t", 0, 2)]), [1, 2]);
    }

    #[test]
    fn a_topic_has_a_limit_of_its_own_and_the_others_take_the_rest() {
        let topics = [("slow", 2)];
        assert_eq!(shared(limits(9, &topics, 1), &[("slow", 0, 9), ("slow", 0, 9), ("t", 0, 9)]), [2, 0, 7]);
        assert_eq!(shared(limits(9, &[("slow", 0)], 1), &[("slow", 0, 9)]), [0]);
    }

    #[test]
    fn suspects_are_limited_and_the_others_do_not_wait_for_them() {
        assert_eq!(shared(limits(5, &[], 1), &[("t", 5, 0), ("t", 0, 2)]), [1, 2]);
        assert_eq!(shared(limits(5, &[], 0), &[("t", 5, 0), ("t", 1, 2)]), [0, 2]);
        assert_eq!(shared(limits(9, &[], 3), &[("t", 5, 1), ("t", 5, 1)]), [4, 1]);
    }

    #[test]
    fn a_job_that_ends_at_once_leaves_its_slot_to_another() {
        let mut turns = Turns::new(2.into(), ["t"]);
        let turn = turns.next().unwrap();
        assert_eq!(turn.jobs, 2);
        turns.record(turn, Leased { jobs: 2, suspects: 0, ended: 1 });
        let turn = turns.next().unwrap();
        assert_eq!(turn, Turn { task: 0, jobs: 1 });
        turns.record(turn, Leased { jobs: 1, suspects: 0, ended: 0 });
        assert_eq!(turns.next(), None);
    }

    #[test]
    fn suspects_that_are_found_in_between_are_limited_from_then_on() {
        let mut turns = Turns::new(limits(4, &[], 1), ["t", "t"]);
        assert_eq!(turns.suspects_left(), None);
        let turn = turns.next().unwrap();
        turns.limit_suspects();
        turns.record(turn, Leased { jobs: 1, suspects: 1, ended: 0 });
        turns.limit_suspects();
        assert_eq!(turns.suspects_left(), Some(0), "found once more, they have no further slots");
    }
}
