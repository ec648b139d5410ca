use super::*;
use crate::task::{Checksum, PartitionOffsets, RowKey};

const ACKNOWLEDGED: Delivery = Delivery::Acknowledged { partition: 0, offset: 0 };

fn position(number: i64) -> Position {
    Position { time_us: number, key: RowKey::Integer(number) }
}

fn quarantined(number: i64) -> QuarantinedRow {
    QuarantinedRow { position: position(number), reason: String::new() }
}

fn report(acks: &AckTracker, number: u64, delivery: Delivery) {
    let instant_us = number.cast_signed();
    acks.record_delivery(SentRow { number, position: position(instant_us), instant_us, hash: 1 << number }, delivery);
}

fn progress(acks: &AckTracker) -> (Option<i64>, u64, u64) {
    let (progress, _) = acks.checkpoint();
    (progress.position.map(|position| position.time_us), progress.published, progress.quarantined)
}

#[tokio::test]
async fn a_quarantined_row_counts_once_those_before_it_are_acknowledged() {
    let acks = AckTracker::new(Progress::default());
    assert_eq!(acks.register(), Ok(0));
    acks.quarantine(quarantined(1)).await.unwrap();
    assert_eq!(acks.register(), Ok(2));
    assert_eq!(progress(&acks), (None, 0, 0));
    report(&acks, 0, ACKNOWLEDGED);
    assert_eq!(progress(&acks), (Some(1), 1, 1));
    report(&acks, 2, ACKNOWLEDGED);
    assert_eq!(progress(&acks), (Some(2), 2, 1));
}

#[tokio::test]
async fn only_a_checkpoint_takes_the_quarantined_rows() {
    let acks = AckTracker::new(Progress::default());
    acks.quarantine(quarantined(1)).await.unwrap();
    assert_eq!((acks.progress().quarantined, acks.has_unreported()), (1, true));
    let (progress, rows) = acks.checkpoint();
    assert_eq!((progress, rows), (acks.progress(), vec![quarantined(1)]));
    assert!(!acks.has_unreported());
}

#[test]
fn nothing_counts_after_a_failure() {
    let acks = AckTracker::new(Progress {
        position: Some(quarantined(-5).position),
        published: 7,
        quarantined: 0,
        ..Progress::default()
    });
    for _ in 0..3 {
        acks.register().unwrap();
    }
    report(&acks, 0, ACKNOWLEDGED);
    report(&acks, 1, Delivery::Failed(KafkaError::ProducerReplaced));
    report(&acks, 2, ACKNOWLEDGED);
    assert_eq!(progress(&acks), (Some(0), 8, 0));
    assert_eq!(acks.failure(), Some(KafkaError::ProducerReplaced));
}

#[test]
fn an_acknowledgement_out_of_order_does_not_move_the_watermark() {
    let acks = AckTracker::new(Progress::default());
    acks.register().unwrap();
    acks.register().unwrap();
    report(&acks, 1, ACKNOWLEDGED);
    assert_eq!(progress(&acks), (None, 0, 0));
    assert!(acks.failure().is_some());
}

#[tokio::test]
async fn a_message_too_large_is_quarantined_in_order() {
    let acks = AckTracker::new(Progress::default());
    acks.register().unwrap();
    acks.quarantine(quarantined(1)).await.unwrap();
    report(&acks, 0, Delivery::TooLarge(9));
    assert_eq!(progress(&acks), (Some(1), 0, 2));
}

#[test]
fn rows_before_a_purged_row_still_count() {
    let acks = AckTracker::new(Progress::default());
    for _ in 0..4 {
        acks.register().unwrap();
    }
    report(&acks, 3, Delivery::Purged(100));
    report(&acks, 2, Delivery::Purged(100));
    report(&acks, 0, ACKNOWLEDGED);
    report(&acks, 1, ACKNOWLEDGED);
    assert_eq!(progress(&acks), (Some(1), 2, 0));
    assert_eq!(acks.failure(), Some(KafkaError::ProducerReplaced));
    acks.restart();
    assert_eq!(acks.register(), Ok(2));
}

#[test]
fn abort_counts_no_more_rows_than_can_have_been_sent() {
    let acks = AckTracker::new(Progress::default());
    for _ in 0..5 {
        acks.register().unwrap();
    }
    for number in [4, 3, 2, 1] {
        report(&acks, number, Delivery::Purged(100));
    }
    assert_eq!(acks.state().count_maybe_sent(150), 1 + 2, "one is on the wire, two more may have been");
    assert_eq!(acks.state().count_maybe_sent(10_000), 5);
}

#[test]
fn the_checksum_has_each_counted_row_once() {
    let acks = AckTracker::new(Progress::default());
    for _ in 0..3 {
        acks.register().unwrap();
    }
    report(&acks, 0, Delivery::Acknowledged { partition: 4, offset: 70 });
    report(&acks, 1, Delivery::Failed(KafkaError::ProducerReplaced));
    report(&acks, 2, Delivery::Acknowledged { partition: 4, offset: 72 });
    acks.restart();
    acks.register().unwrap();
    acks.register().unwrap();
    report(&acks, 1, Delivery::Acknowledged { partition: 4, offset: 75 });
    report(&acks, 2, Delivery::Acknowledged { partition: 4, offset: 76 });
    let row = |number: i64| RowId { instant_us: number, key: RowKey::Integer(number) };
    let expected = Delivered {
        rows: 3,
        checksum: Checksum(0b111),
        first: Some(row(0)),
        last: Some(row(2)),
        partitions: vec![PartitionOffsets { partition: 4, first: 70, last: 76 }],
        repeated: 1,
        ..Delivered::default()
    };
    assert_eq!(acks.checkpoint().0.delivered, expected);
}

#[test]
fn an_attempt_goes_on_with_the_checksum_of_the_one_before() {
    let mut before = Delivered { settled: true, ..Delivered::default() };
    before.add(RowId { instant_us: -1, key: RowKey::Integer(-1) }, 40, 0, 7);
    let acks = AckTracker::new(Progress { published: 1, delivered: before, ..Progress::default() });
    acks.register().unwrap();
    report(&acks, 0, Delivery::Acknowledged { partition: 0, offset: 8 });
    let delivered = acks.checkpoint().0.delivered;
    assert_eq!((delivered.rows, delivered.checksum, delivered.settled), (2, Checksum(41), false));
}
