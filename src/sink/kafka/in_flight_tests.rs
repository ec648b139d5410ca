use proptest::prelude::*;

use super::*;

fn lanes(count: i32) -> Vec<Arc<Lane>> {
    (0..count).map(|partition| Arc::new(Lane::new("t", partition))).collect()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn whom(grants: Vec<Grant<u32>>) -> Vec<u32> {
    grants.into_iter().map(|grant| grant.whom).collect()
}

#[test]
fn lanes_take_turns() {
    let (mut budget, lanes) = (ByteBudget::new(100), lanes(2));
    budget.request(&lanes[0], 100, 0);
    assert_eq!(whom(budget.grant()), [0]);
    lanes[0].settled();
    for (lane, number) in [(0, 1), (0, 2), (0, 3), (1, 4)] {
        budget.request(&lanes[lane], 50, number);
    }
    assert!(budget.grant().is_empty());
    budget.release(&lanes[0], 100);
    assert_eq!(whom(budget.grant()), [1, 4], "one of each lane, whoever came first");
}

#[test]
fn a_large_request_is_not_starved_by_small_ones() {
    let (mut budget, lanes) = (ByteBudget::new(100), lanes(2));
    budget.request(&lanes[0], 60, 0);
    assert_eq!(whom(budget.grant()), [0]);
    budget.request(&lanes[1], 90, 1);
    budget.request(&lanes[0], 10, 2);
    assert!(budget.grant().is_empty(), "the small one would fit, and waits its turn");
    budget.release(&lanes[0], 60);
    assert_eq!(whom(budget.grant()), [1, 2]);
}

#[test]
fn a_stalled_lane_gets_nothing_and_keeps_nobody_waiting() {
    let (mut budget, lanes) = (ByteBudget::new(100), lanes(2));
    budget.request(&lanes[0], 100, 0);
    budget.request(&lanes[1], 40, 1);
    budget.request(&lanes[0], 40, 2);
    assert_eq!(whom(budget.grant()), [0]);
    lanes[0].sent();
    budget.check_stalls(at(10));
    budget.check_stalls(at(11));
    assert!(budget.grant().is_empty(), "not yet");
    budget.check_stalls(at(12));
    assert_eq!(budget.stalled_for(&lanes[0], at(13)), Some(at(3)));
    assert_eq!(whom(budget.grant()), [1]);
    assert_eq!((budget.used, budget.set_aside), (40, 100));

    lanes[0].settled();
    budget.check_stalls(at(13));
    assert_eq!((budget.used, budget.set_aside), (140, 0), "its bytes are back");
    assert!(budget.grant().is_empty());
    budget.release(&lanes[0], 100);
    assert_eq!(whom(budget.grant()), [2]);
}

#[test]
fn a_lane_gets_little_until_its_first_answer() {
    let (mut budget, lanes) = (ByteBudget::new(32 * 10), lanes(2));
    for number in 0..4 {
        budget.request(&lanes[0], 5, number);
    }
    budget.request(&lanes[1], 30, 4);
    assert_eq!(
        whom(budget.grant()),
        [0, 4, 1],
        "a 32nd of all in small pieces, or one that is larger; nobody waits for the rest"
    );
    lanes[0].sent();
    lanes[0].settled();
    budget.release(&lanes[0], 5);
    assert_eq!(whom(budget.grant()), [2, 3]);
    // All is given back: what comes later begins anew.
    budget.release(&lanes[0], 15);
    budget.request(&lanes[0], 30, 5);
    budget.request(&lanes[0], 30, 6);
    assert_eq!(whom(budget.grant()), [5]);
}

#[test]
fn a_lane_that_answered_a_moment_ago_gets_what_it_asks_for() {
    let (mut budget, lanes) = (ByteBudget::new(320), lanes(1));
    lanes[0].sent();
    lanes[0].settled();
    lanes[0].acknowledged();
    budget.request(&lanes[0], 30, 1);
    budget.request(&lanes[0], 200, 2);
    assert_eq!(whom(budget.grant()), [1, 2]);
}

#[test]
fn lanes_that_never_answer_leave_room_for_others() {
    let (mut budget, lanes) = (ByteBudget::new(320), lanes(18));
    // One that answered before it fell silent holds all there is.
    budget.request(&lanes[0], 10, 0);
    budget.grant();
    lanes[0].sent();
    lanes[0].settled();
    budget.request(&lanes[0], 310, 1);
    assert_eq!(whom(budget.grant()), [1]);
    lanes[0].sent();
    budget.check_stalls(at(0));
    budget.check_stalls(at(1));
    budget.check_stalls(at(3));
    // Those that begin later want as much.
    for (lane, number) in lanes[1..17].iter().zip(2..) {
        for _ in 0..32 {
            budget.request(lane, 10, number);
        }
        assert_eq!(whom(budget.grant()), [number]);
        lane.sent();
    }
    budget.check_stalls(at(4));
    budget.check_stalls(at(6));
    budget.request(&lanes[17], 160, 99);
    assert_eq!(whom(budget.grant()), [99]);
}

#[test]
fn silence_counts_from_the_last_answer() {
    let (mut budget, lanes) = (ByteBudget::new(100), lanes(1));
    budget.request(&lanes[0], 10, 0);
    budget.grant();
    lanes[0].sent();
    lanes[0].sent();
    budget.check_stalls(at(0));
    lanes[0].settled();
    budget.check_stalls(at(1));
    budget.check_stalls(at(2));
    budget.check_stalls(at(3));
    assert_eq!(budget.stalled_for(&lanes[0], at(3)), None);
    budget.check_stalls(at(4));
    assert_eq!(budget.stalled_for(&lanes[0], at(4)), Some(at(2)));
}

/// What can happen to the budget; numbers choose a lane, or one of those who hold bytes.
#[derive(Debug, Clone)]
enum Step {
    Request(usize, usize),
    Cancel(usize),
    Release(usize),
    Send(usize),
    Answer(usize),
    Look(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_usize, 0..150_usize).prop_map(|(lane, bytes)| Step::Request(lane, bytes)),
        (0..50_usize).prop_map(Step::Cancel),
        (0..50_usize).prop_map(Step::Release),
        (0..3_usize).prop_map(Step::Send),
        (0..3_usize).prop_map(Step::Answer),
        (0..3_u64).prop_map(Step::Look),
    ]
}

proptest! {
    #[test]
    fn bytes_are_conserved_and_whoever_waits_is_served(steps in proptest::collection::vec(step(), 0..200)) {
        let (mut budget, lanes) = (ByteBudget::new(100), lanes(3));
        let (mut waiting, mut held, mut now, mut number) = (Vec::new(), Vec::new(), 0, 0_u32);
        for step in steps {
            match step {
                Step::Request(lane, bytes) => {
                    number += 1;
                    waiting.push((number, lane, budget.request(&lanes[lane], bytes, number)));
                }
                Step::Cancel(n) if !waiting.is_empty() => {
                    let (_, lane, ticket) = waiting.remove(n % waiting.len());
                    budget.cancel(&lanes[lane], ticket);
                }
                Step::Release(n) if !held.is_empty() => {
                    let (lane, bytes): (Arc<Lane>, usize) = held.remove(n % held.len());
                    budget.release(&lane, bytes);
                }
                Step::Send(lane) => lanes[lane].sent(),
                Step::Answer(lane)
                    if lanes[lane].sent.load(Ordering::Relaxed) > lanes[lane].settled.load(Ordering::Relaxed) =>
                {
                    lanes[lane].settled();
                }
                Step::Look(seconds) => {
                    now += seconds;
                    budget.check_stalls(at(now));
                }
                _ => {}
            }
            for grant in budget.grant() {
                waiting.retain(|(number, ..)| *number != grant.whom);
                held.push((grant.lane, grant.bytes));
            }
            let bytes: usize = held.iter().map(|(_, bytes)| bytes).sum();
            prop_assert_eq!(budget.used + budget.set_aside, bytes);
            prop_assert!(budget.set_aside <= 100, "{} set aside", budget.set_aside);
            prop_assert!(bytes <= 200, "{bytes} in all");
        }
        // Everything answers and is given back: whoever still waits is served.
        while !held.is_empty() || !waiting.is_empty() {
            for lane in &lanes {
                lane.settled.store(lane.sent.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            now += 1;
            budget.check_stalls(at(now));
            for (lane, bytes) in held.drain(..) {
                budget.release(&lane, bytes);
            }
            let grants = budget.grant();
            prop_assert!(!grants.is_empty() || waiting.is_empty(), "{waiting:?} are never served");
            for grant in grants {
                waiting.retain(|(number, ..)| *number != grant.whom);
                held.push((grant.lane, grant.bytes));
            }
        }
        prop_assert_eq!((budget.used, budget.set_aside, budget.lanes.len(), budget.turns.len()), (0, 0, 0, 0));
    }
}
