use proptest::prelude::*;

use super::*;

fn lanes(count: i32) -> Vec<Arc<Lane>> {
    (0..count).map(|partition| Arc::new(Lane::new("t", partition))).collect()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn replies(grants: Vec<Grant<u32>>) -> Vec<u32> {
    grants.into_iter().map(|grant| grant.reply).collect()
}

#[test]
fn lanes_take_turns() {
    let (mut budget, lanes) = (ByteBudget::new(100), lanes(2));
    budget.request(&lanes[0], 100, 0);
    assert_eq!(replies(budget.grant()), [0]);
    lanes[0].record_completed();
    for (lane, number) in [(0, 1), (0, 2), (0, 3), (1, 4)] {
        budget.request(&lanes[lane], 50, number);
    }
    assert!(budget.grant().is_empty());
    budget.release(&lanes[0], 100);
    assert_eq!(replies(budget.grant()), [1, 4], "one per lane, independent of arrival");
}

#[test]
fn a_large_request_is_not_starved_by_small_ones() {
    let (mut budget, lanes) = (ByteBudget::new(100), lanes(2));
    budget.request(&lanes[0], 60, 0);
    assert_eq!(replies(budget.grant()), [0]);
    budget.request(&lanes[1], 90, 1);
    budget.request(&lanes[0], 10, 2);
    assert!(budget.grant().is_empty(), "the small request would fit, and waits for its turn");
    budget.release(&lanes[0], 60);
    assert_eq!(replies(budget.grant()), [1, 2]);
}

#[test]
fn a_stalled_lane_gets_nothing_and_blocks_no_other() {
    let (mut budget, lanes) = (ByteBudget::new(100), lanes(2));
    budget.request(&lanes[0], 100, 0);
    budget.request(&lanes[1], 40, 1);
    budget.request(&lanes[0], 40, 2);
    assert_eq!(replies(budget.grant()), [0]);
    lanes[0].record_sent();
    budget.check_stalls(at(10));
    budget.check_stalls(at(11));
    assert!(budget.grant().is_empty(), "not yet");
    budget.check_stalls(at(12));
    assert_eq!(budget.stalled_for(&lanes[0], at(13)), Some(at(3)));
    assert_eq!(replies(budget.grant()), [1]);
    assert_eq!((budget.used, budget.set_aside), (40, 100));

    lanes[0].record_completed();
    budget.check_stalls(at(13));
    assert_eq!((budget.used, budget.set_aside), (140, 0), "its bytes count again");
    assert!(budget.grant().is_empty());
    budget.release(&lanes[0], 100);
    assert_eq!(replies(budget.grant()), [2]);
}

#[test]
fn a_lane_is_limited_until_its_first_delivery_report() {
    let (mut budget, lanes) = (ByteBudget::new(32 * 10), lanes(2));
    for number in 0..4 {
        budget.request(&lanes[0], 5, number);
    }
    budget.request(&lanes[1], 30, 4);
    assert_eq!(
        replies(budget.grant()),
        [0, 4, 1],
        "a 32nd of all bytes in small requests, or one larger request; no other lane is blocked"
    );
    lanes[0].record_sent();
    lanes[0].record_completed();
    budget.release(&lanes[0], 5);
    assert_eq!(replies(budget.grant()), [2, 3]);
    // All bytes are released: the next request starts from the initial state.
    budget.release(&lanes[0], 15);
    budget.request(&lanes[0], 30, 5);
    budget.request(&lanes[0], 30, 6);
    assert_eq!(replies(budget.grant()), [5]);
}

#[test]
fn a_lane_that_was_acknowledged_recently_is_not_limited() {
    let (mut budget, lanes) = (ByteBudget::new(320), lanes(1));
    lanes[0].record_sent();
    lanes[0].record_completed();
    lanes[0].record_ack();
    budget.request(&lanes[0], 30, 1);
    budget.request(&lanes[0], 200, 2);
    assert_eq!(replies(budget.grant()), [1, 2]);
}

#[test]
fn lanes_without_delivery_reports_leave_bytes_for_others() {
    let (mut budget, lanes) = (ByteBudget::new(320), lanes(18));
    // A lane that stalls after a delivery report has reserved all bytes.
    budget.request(&lanes[0], 10, 0);
    budget.grant();
    lanes[0].record_sent();
    lanes[0].record_completed();
    budget.request(&lanes[0], 310, 1);
    assert_eq!(replies(budget.grant()), [1]);
    lanes[0].record_sent();
    budget.check_stalls(at(0));
    budget.check_stalls(at(1));
    budget.check_stalls(at(3));
    // Lanes that start later request as much.
    for (lane, number) in lanes[1..17].iter().zip(2..) {
        for _ in 0..32 {
            budget.request(lane, 10, number);
        }
        assert_eq!(replies(budget.grant()), [number]);
        lane.record_sent();
    }
    budget.check_stalls(at(4));
    budget.check_stalls(at(6));
    budget.request(&lanes[17], 160, 99);
    assert_eq!(replies(budget.grant()), [99]);
}

#[test]
fn hundreds_of_unavailable_lanes_leave_bytes_for_others() {
    let (mut budget, lanes) = (ByteBudget::new(32_000), lanes(301));
    // Twenty a second start to send to a partition without a leader, and want much more than they
    // get.
    for (second, group) in (0..).zip(lanes[..300].chunks(20)) {
        for lane in group {
            for _ in 0..100 {
                budget.request(lane, 10, 0);
            }
        }
        for grant in budget.grant() {
            grant.lane.record_sent();
        }
        budget.check_stalls(at(second));
    }
    for second in 16..20 {
        budget.check_stalls(at(second));
        for grant in budget.grant() {
            grant.lane.record_sent();
        }
    }
    budget.request(&lanes[300], 1_000, 99);
    assert!(replies(budget.grant()).contains(&99), "{} used, {} set aside", budget.used, budget.set_aside);
}

#[test]
fn a_partition_that_a_quota_delays_is_not_stalled() {
    let (mut budget, lanes) = (ByteBudget::new(100), lanes(1));
    budget.request(&lanes[0], 10, 0);
    budget.grant();
    lanes[0].record_sent();
    budget.stall_timeout = STALL_TIMEOUT + at(4);
    budget.check_stalls(at(0));
    budget.check_stalls(at(5));
    assert_eq!(budget.stalled_for(&lanes[0], at(5)), None);
    budget.check_stalls(at(6));
    assert_eq!(budget.stalled_for(&lanes[0], at(6)), Some(at(6)));
}

#[test]
fn a_stall_is_measured_from_the_last_delivery_report() {
    let (mut budget, lanes) = (ByteBudget::new(100), lanes(1));
    budget.request(&lanes[0], 10, 0);
    budget.grant();
    lanes[0].record_sent();
    lanes[0].record_sent();
    budget.check_stalls(at(0));
    lanes[0].record_completed();
    budget.check_stalls(at(1));
    budget.check_stalls(at(2));
    budget.check_stalls(at(3));
    assert_eq!(budget.stalled_for(&lanes[0], at(3)), None);
    budget.check_stalls(at(4));
    assert_eq!(budget.stalled_for(&lanes[0], at(4)), Some(at(2)));
}

/// An operation on the budget; the numbers select a lane or a reservation.
#[derive(Debug, Clone)]
enum Step {
    Request(usize, usize),
    Cancel(usize),
    Release(usize),
    Send(usize),
    Answer(usize),
    Check(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_usize, 0..150_usize).prop_map(|(lane, bytes)| Step::Request(lane, bytes)),
        (0..50_usize).prop_map(Step::Cancel),
        (0..50_usize).prop_map(Step::Release),
        (0..3_usize).prop_map(Step::Send),
        (0..3_usize).prop_map(Step::Answer),
        (0..3_u64).prop_map(Step::Check),
    ]
}

proptest! {
    #[test]
    fn bytes_are_conserved_and_every_request_is_served(steps in proptest::collection::vec(step(), 0..200)) {
        let (mut budget, lanes) = (ByteBudget::new(100), lanes(3));
        let (mut waiting, mut reserved, mut now, mut number) = (Vec::new(), Vec::new(), 0, 0_u32);
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
                Step::Release(n) if !reserved.is_empty() => {
                    let (lane, bytes): (Arc<Lane>, usize) = reserved.remove(n % reserved.len());
                    budget.release(&lane, bytes);
                }
                Step::Send(lane) => lanes[lane].record_sent(),
                Step::Answer(lane)
                    if lanes[lane].sent.load(Ordering::Relaxed) > lanes[lane].completed.load(Ordering::Relaxed) =>
                {
                    lanes[lane].record_completed();
                }
                Step::Check(seconds) => {
                    now += seconds;
                    budget.check_stalls(at(now));
                }
                _ => {}
            }
            for grant in budget.grant() {
                waiting.retain(|(number, ..)| *number != grant.reply);
                reserved.push((grant.lane, grant.bytes));
            }
            let bytes: usize = reserved.iter().map(|(_, bytes)| bytes).sum();
            prop_assert_eq!(budget.used + budget.set_aside, bytes);
            prop_assert!(budget.set_aside <= 100, "{} set aside", budget.set_aside);
            prop_assert!(bytes <= 200, "{bytes} in all");
        }
        // All rows complete and all bytes are released: every remaining request is served.
        while !reserved.is_empty() || !waiting.is_empty() {
            for lane in &lanes {
                lane.completed.store(lane.sent.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            now += 1;
            budget.check_stalls(at(now));
            for (lane, bytes) in reserved.drain(..) {
                budget.release(&lane, bytes);
            }
            let grants = budget.grant();
            prop_assert!(!grants.is_empty() || waiting.is_empty(), "{waiting:?} are never served");
            for grant in grants {
                waiting.retain(|(number, ..)| *number != grant.reply);
                reserved.push((grant.lane, grant.bytes));
            }
        }
        prop_assert_eq!((budget.used, budget.set_aside, budget.lanes.len(), budget.round_robin.len()), (0, 0, 0, 0));
    }
}
