//! The number of quarantined rows of a device is limited, so that a wrong rule does not fill the
//! queue.

use serde_json::json;

use crate::support::{Reading, TestApp, TestSource, message};

#[tokio::test]
async fn a_device_with_too_many_quarantined_rows_fails() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["validation", "max_quarantined"], 100);
    })
    .await;
    let (thing, good) = app.source.add_rows(3).await;
    let torn = app.source.add_device_with_rows(thing, 10, 5).await;
    let time_ms = 1_547_211_880_000;
    let rows: Vec<Reading> =
        (0..20_000).map(|n| Reading { id: 1_000 + n, device: torn, time_ms: time_ms + n, doc: Some("[1]".to_owned()) }).collect();
    app.source.add(&rows).await;
    let (task, log) = app.publish(thing, &[good, torn]).await;
    let failed = log.iter().find(|line| line["res"] == "error").unwrap();
    assert!(message(failed).contains(&torn.to_string()), "{failed}");
    assert!(
        message(failed).contains("validation.max_quarantined = 100") && message(failed).contains("rule is likely wrong"),
        "{failed}"
    );
    let last = log.last().unwrap();
    assert_eq!(last["payload"]["state"], "failed");
    assert!(message(last).starts_with("task finished: 1 of 2 devices, 8 rows published"), "{last}");
    let queue = app.queue().await;
    let kept = queue.quarantined_rows(data_patch::task::TaskId(task.parse().unwrap())).await.unwrap().len();
    assert!((100..=2_500).contains(&kept), "{kept} positions are kept");
    queue.close().await;
    app.stop().await;
}

#[tokio::test]
async fn the_last_line_counts_quarantined_rows_and_empty_devices() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, good) = app.source.add_rows(3).await;
    let empty = app.source.add_device_with_rows(thing, 10, 0).await;
    app.source.add(&[Reading { id: 50, device: good, time_ms: 1_547_211_780_500, doc: Some("[1]".to_owned()) }]).await;
    let (_, log) = app.publish(thing, &[good, empty]).await;
    let last = log.last().unwrap();
    assert_eq!(last["payload"]["state"], json!("succeeded"));
    let text = message(last);
    assert!(text.contains("3 rows published, 1 quarantined"), "{text}");
    assert!(text.contains("1 device had no row in the range"), "{text}");
    assert!(text.contains("quarantined rows are not in the topic"), "{text}");
    app.stop().await;
}
