//! How the slots of a claim are shared among the due tasks. Pure.
//!
//! Each task gets an equal share of the slots. A task with fewer due jobs than its share leaves the
//! rest to the others, which share it in another round (max-min fairness). Topics and things have
//! limits of their own, and so have the jobs that are suspected of crashing their instance.
//!
//! The store asks for one turn after the other and says what came of each, because only it knows
//! how many jobs are due: it may ask its tables task by task, or read enough due jobs of all tasks
//! at once and take the turns in memory.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

use crate::ClaimLimits;

/// The turns of one claim.
#[derive(Debug)]
pub struct Turns<'a> {
    /// The topic and the thing of each task, in the order of their turns.
    tasks: Vec<(&'a str, Uuid)>,
    /// Slots that no job occupies yet.
    slots: usize,
    topics_left: HashMap<String, usize>,
    /// Empty if things have no limit.
    things_left: HashMap<Uuid, usize>,
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
    /// The turns of tasks with these topics and things, the least recently served task first.
    /// `in_progress` has the jobs in progress of each thing.
    pub fn new(
        limits: ClaimLimits,
        in_progress: &HashMap<Uuid, usize>,
        tasks: impl IntoIterator<Item = (&'a str, Uuid)>,
    ) -> Self {
        let tasks: Vec<_> = tasks.into_iter().collect();
        let left = |limit: usize, thing| limit.saturating_sub(in_progress.get(&thing).copied().unwrap_or(0));
        let things_left = |limit| tasks.iter().map(|(_, thing)| (*thing, left(limit, *thing))).collect();
        Self {
            slots: limits.jobs,
            topics_left: limits.topics,
            things_left: limits.jobs_per_thing.map(things_left).unwrap_or_default(),
            suspects: limits.suspects,
            suspects_left: None,
            round: VecDeque::new(),
            unshared: 0,
            next_round: (0..tasks.len()).collect(),
            tasks,
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
            let jobs = self.left(task).into_iter().flatten().fold(fair, |jobs, left| jobs.min(*left));
            if jobs > 0 {
                self.unshared -= jobs;
                return Some(Turn { task, jobs });
            }
        }
    }

    /// Takes note of what came of a turn.
    pub fn record(&mut self, turn: Turn, leased: Leased) {
        self.slots = self.slots.saturating_sub(leased.jobs.saturating_sub(leased.ended));
        for left in self.left(turn.task).into_iter().flatten() {
            *left = left.saturating_sub(leased.jobs);
        }
        if let Some(left) = &mut self.suspects_left {
            *left = left.saturating_sub(leased.suspects);
        }
        if leased.jobs == turn.jobs {
            self.next_round.push_back(turn.task);
        }
    }

    /// How many jobs the topic and the thing of a task may still have, if they have limits.
    fn left(&mut self, task: usize) -> [Option<&mut usize>; 2] {
        let Some((topic, thing)) = self.tasks.get(task) else { return [None, None] };
        [self.topics_left.get_mut(*topic), self.things_left.get_mut(thing)]
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
        ClaimLimits { topics, suspects, ..jobs.into() }
    }

    /// How many jobs of each task are leased, if none ends at once. Each is of another thing.
    fn shared(limits: ClaimLimits, tasks: &[Task]) -> Vec<usize> {
        let things: Vec<_> = tasks.iter().map(|_| Uuid::new_v4()).collect();
        shared_of_things(limits, tasks, &things, &HashMap::new())
    }

    fn shared_of_things(limits: ClaimLimits, tasks: &[Task], things: &[Uuid], in_progress: &HashMap<Uuid, usize>) -> Vec<usize> {
        let mut left = tasks.to_vec();
        let topics = tasks.iter().map(|(topic, ..)| *topic);
        let mut turns = Turns::new(limits, in_progress, topics.zip(things.iter().copied()));
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
    fn a_thing_has_no_more_jobs_than_its_limit_whatever_its_tasks() {
        let (bridge, dam) = (Uuid::new_v4(), Uuid::new_v4());
        let (tasks, things) = ([("t", 0, 9), ("u", 0, 9), ("t", 0, 9)], [bridge, bridge, dam]);
        let limits = |jobs_per_thing| ClaimLimits { jobs_per_thing, ..limits(9, &[], 1) };
        let shared = |limits, in_progress: &[(Uuid, usize)]| {
            shared_of_things(limits, &tasks, &things, &in_progress.iter().copied().collect())
        };
        assert_eq!(shared(limits(Some(2)), &[]), [2, 0, 2]);
        assert_eq!(shared(limits(Some(4)), &[(bridge, 3), (dam, 1)]), [1, 0, 3]);
        assert_eq!(shared(limits(Some(2)), &[(bridge, 5)]), [0, 0, 2], "more than the limit, since it was lowered");
        assert_eq!(shared(limits(None), &[(bridge, 5)]), [3, 3, 3]);
    }

    #[test]
    fn suspects_are_limited_and_the_others_do_not_wait_for_them() {
        assert_eq!(shared(limits(5, &[], 1), &[("t", 5, 0), ("t", 0, 2)]), [1, 2]);
        assert_eq!(shared(limits(5, &[], 0), &[("t", 5, 0), ("t", 1, 2)]), [0, 2]);
        assert_eq!(shared(limits(9, &[], 3), &[("t", 5, 1), ("t", 5, 1)]), [4, 1]);
    }

    #[test]
    fn a_job_that_ends_at_once_leaves_its_slot_to_another() {
        let mut turns = Turns::new(2.into(), &HashMap::new(), [("t", Uuid::nil())]);
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
        let mut turns = Turns::new(limits(4, &[], 1), &HashMap::new(), [("t", Uuid::nil()); 2]);
        assert_eq!(turns.suspects_left(), None);
        let turn = turns.next().unwrap();
        turns.limit_suspects();
        turns.record(turn, Leased { jobs: 1, suspects: 1, ended: 0 });
        turns.limit_suspects();
        assert_eq!(turns.suspects_left(), Some(0), "found once more, they have no further slots");
    }
}
