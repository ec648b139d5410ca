use uuid::Uuid;

use super::*;
use crate::{Clock, Queue, QueueOptions, store::sqlite::connection};

const THINGS: i64 = 3;
const SECOND_MS: i64 = 1_000;
/// When the first task was created.
const START_MS: i64 = 1_700_000_000_000;

fn thing(number: i64) -> Uuid {
    Uuid::from_u128(number.unsigned_abs().into())
}

/// A queue of tasks that were created one a second. Every third is of the same thing, every second has
/// a reason, one in 1,000 another topic, one in 2,000 failed.
async fn queue(tasks: i64) -> (tempfile::TempDir, Queue) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let options = QueueOptions::new(format!("sqlite://{}", path.display()));
    let queue = Queue::open(&options, Clock::System).await.unwrap();
    let fill = format!(
        "WITH RECURSIVE n (i, ms) AS (SELECT 0, {START_MS} UNION ALL SELECT i + 1, ms + {SECOND_MS} FROM n WHERE i + 1 < {tasks})
         INSERT INTO task (id, thing_id, topic, range_from, range_to, state, served_seq, created_at, finished_at, reason)
         SELECT printf('%08x-%04x-7000-8000-%012x', ms >> 16, ms & 65535, i),
             printf('00000000-0000-0000-0000-%012x', i % {THINGS}),
             iif(i % 1000 = 500, 'rare', 'often'), '2019-01-11T00:00:00Z', '2019-01-12T00:00:00Z',
             iif(i % 2000 = 600, 'failed', 'succeeded'), i, ms, ms, iif(i % 2 = 0, 'ticket ' || i || '.', NULL)
         FROM n;
         INSERT INTO job (task_id, ordinal, device_id, state)
         SELECT id, 0, iif(created_at = {START_MS}, '{first}', '{other}'), state FROM task;",
        first = thing(100),
        other = thing(101),
    );
    connection::connect(&path).unwrap().execute_batch(&fill).unwrap();
    (folder, queue)
}

/// The numbers of all tasks of a filter, page by page, and the number of pages.
async fn all(queue: &Queue, filter: &TaskFilter, limit: u32) -> (Vec<i64>, usize) {
    let (mut found, mut before, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = queue.tasks(filter, before, limit).await.unwrap();
        assert!(page.tasks.len() <= limit as usize);
        found.extend(page.tasks.iter().map(|detail| (detail.task.created_at_ms - START_MS) / SECOND_MS));
        pages += 1;
        assert!(page.next.is_none() || page.next != before, "the next page is the same");
        before = page.next;
        if before.is_none() {
            return (found, pages);
        }
    }
}

/// What a filter means, for one task.
fn matches(filter: &TaskFilter, i: i64) -> bool {
    let state = if i % 2_000 == 600 { TaskState::Failed } else { TaskState::Succeeded };
    let topic = if i % 1_000 == 500 { "rare" } else { "often" };
    let device = if i == 0 { thing(100) } else { thing(101) };
    let ms = START_MS + i * SECOND_MS;
    let id = format!("{:08x}-{:04x}-7000-8000-{i:012x}", ms >> 16, ms & 65_535);
    let is_found = |text: &String| id.starts_with(&text.to_lowercase()) || (i % 2 == 0 && format!("ticket {i}.").contains(text));
    (filter.states.is_empty() || filter.states.contains(&state))
        && filter.thing.is_none_or(|wanted| wanted == thing(i % THINGS))
        && filter.device.is_none_or(|wanted| wanted == device)
        && filter.topic.as_ref().is_none_or(|wanted| wanted == topic)
        && filter.created_ms.as_ref().is_none_or(|created| created.contains(&ms))
        && filter.text.as_ref().is_none_or(is_found)
}

#[tokio::test]
async fn every_filter_finds_all_of_its_tasks_once_the_newest_first() {
    const TASKS: i64 = 11_000;
    let (_folder, queue) = queue(TASKS).await;
    let none = TaskFilter::default();
    let second = |number: i64| START_MS + number * SECOND_MS;
    let states = [vec![], vec![TaskState::Failed], vec![TaskState::Succeeded, TaskState::Failed, TaskState::Failed]];
    let created = [None, Some(second(10)..=second(20)), Some(i64::MIN..=second(3_000)), Some(second(10_990)..=i64::MAX)];
    let texts = ["ticket 48", "018bcfe5", "018BCFE6-1", "no such text", "0"];
    let mut filters = Vec::new();
    for states in states {
        for topic in [None, Some("rare"), Some("often"), Some("unknown")] {
            for created_ms in created.clone() {
                let topic = topic.map(str::to_owned);
                filters.push(TaskFilter { states: states.clone(), topic, created_ms, ..none.clone() });
            }
        }
        filters.push(TaskFilter {
            states: states.clone(),
            thing: Some(thing(1)),
            topic: Some("rare".to_owned()),
            ..none.clone()
        });
        filters.extend(texts.map(|text| TaskFilter { states: states.clone(), text: Some(text.to_owned()), ..none.clone() }));
    }
    filters.push(TaskFilter { device: Some(thing(100)), ..none.clone() });
    filters.push(TaskFilter { device: Some(thing(100)), thing: Some(thing(0)), topic: Some("often".to_owned()), ..none.clone() });
    filters.push(TaskFilter { thing: Some(thing(1)), text: Some("ticket".to_owned()), ..none });
    for filter in filters {
        let expected: Vec<_> = (0..TASKS).rev().filter(|i| matches(&filter, *i)).collect();
        let (found, _) = all(&queue, &filter, 400).await;
        assert!(found == expected, "{filter:?}: {} found, {} expected", found.len(), expected.len());
    }
}

/// A page of tasks that an index alone does not find may be short, so that it costs little.
#[tokio::test]
async fn a_page_looks_at_a_limited_number_of_tasks() {
    let (_folder, queue) = queue(41_000).await;
    let none = TaskFilter::default();
    for (filter, pages) in [
        (TaskFilter { topic: Some("unknown".to_owned()), ..none.clone() }, 1),
        (TaskFilter { created_ms: Some(0..=1), ..none.clone() }, 1),
        (TaskFilter { thing: Some(thing(9)), text: Some("no such text".to_owned()), ..none.clone() }, 1),
        // One of the two is rare, and its index is read.
        (TaskFilter { states: vec![TaskState::Failed], topic: Some("often".to_owned()), ..none.clone() }, 1),
        (TaskFilter { states: vec![TaskState::Succeeded], topic: Some("rare".to_owned()), ..none.clone() }, 1),
        // 20,500 tasks have a reason.
        (TaskFilter { text: Some("no such text".to_owned()), ..none.clone() }, 2),
        (TaskFilter { device: Some(thing(9)), ..none }, 21),
    ] {
        assert_eq!(all(&queue, &filter, 400).await.1, pages, "{filter:?}");
    }
}
