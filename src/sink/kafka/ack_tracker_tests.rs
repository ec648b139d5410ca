use super::*;

fn held(number: i64) -> QuarantinedRow {
    QuarantinedRow { position: Position { time_us: number, key: number.to_string() }, reason: String::new() }
}

fn settle(flight: &AckTracker, number: u64, how: Delivery) {
    flight.complete(number, number.cast_signed(), Key::Integer(number.cast_signed()), how);
}

fn seen(flight: &AckTracker) -> (Option<i64>, u64, u64) {
    let (progress, _) = flight.progress();
    (progress.cursor.map(|cursor| cursor.time_us), progress.published, progress.quarantined)
}

#[tokio::test]
async fn a_held_row_counts_once_those_before_it_are_acknowledged() {
    let flight = AckTracker::new(Progress::default());
    assert_eq!(flight.register(), Ok(0));
    flight.quarantine(held(1)).await.unwrap();
    assert_eq!(flight.register(), Ok(2));
    assert_eq!(seen(&flight), (None, 0, 0));
    settle(&flight, 0, Delivery::Acknowledged);
    assert_eq!(seen(&flight), (Some(1), 1, 1));
    settle(&flight, 2, Delivery::Acknowledged);
    assert_eq!(seen(&flight), (Some(2), 2, 1));
}

#[test]
fn nothing_counts_after_a_failure() {
    let flight = AckTracker::new(Progress { cursor: Some(held(-5).position), published: 7, quarantined: 0 });
    for _ in 0..3 {
        flight.register().unwrap();
    }
    settle(&flight, 0, Delivery::Acknowledged);
    settle(&flight, 1, Delivery::Failed(KafkaError::ProducerReplaced));
    settle(&flight, 2, Delivery::Acknowledged);
    assert_eq!(seen(&flight), (Some(0), 8, 0));
    assert_eq!(flight.failure(), Some(KafkaError::ProducerReplaced));
}

#[test]
fn an_acknowledgement_out_of_order_moves_no_cursor() {
    let flight = AckTracker::new(Progress::default());
    flight.register().unwrap();
    flight.register().unwrap();
    settle(&flight, 1, Delivery::Acknowledged);
    assert_eq!(seen(&flight), (None, 0, 0));
    assert!(flight.failure().is_some());
}

#[tokio::test]
async fn a_message_too_large_is_held_back_in_its_place() {
    let flight = AckTracker::new(Progress::default());
    flight.register().unwrap();
    flight.quarantine(held(1)).await.unwrap();
    settle(&flight, 0, Delivery::TooLarge(9));
    assert_eq!(seen(&flight), (Some(1), 0, 2));
}

#[test]
fn rows_before_one_that_was_dropped_still_count() {
    let flight = AckTracker::new(Progress::default());
    for _ in 0..4 {
        flight.register().unwrap();
    }
    settle(&flight, 3, Delivery::Dropped(100));
    settle(&flight, 2, Delivery::Dropped(100));
    settle(&flight, 0, Delivery::Acknowledged);
    settle(&flight, 1, Delivery::Acknowledged);
    assert_eq!(seen(&flight), (Some(1), 2, 0));
    assert_eq!(flight.failure(), Some(KafkaError::ProducerReplaced));
    flight.restart();
    assert_eq!(flight.register(), Ok(2));
}

#[test]
fn no_more_rows_are_unanswered_than_can_have_been_sent() {
    let flight = AckTracker::new(Progress::default());
    for _ in 0..5 {
        flight.register().unwrap();
    }
    for number in [4, 3, 2, 1] {
        settle(&flight, number, Delivery::Dropped(100));
    }
    assert_eq!(flight.state().unanswered(150), 1 + 2, "one is on the wire, two more may have been");
    assert_eq!(flight.state().unanswered(10_000), 5);
}
