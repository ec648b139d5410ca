//! `data-patch queue copy`: the queue is moved, and the service goes on with the copy.

use std::{collections::HashSet, process::Stdio};

use serde_json::{Value, json};

use crate::{
    commands_api::{Ran, ended},
    restart::{ROWS, Site, attach, is_partly_published},
    support::{Client, TIMEOUT, message, program, queue_url, seqs},
};

async fn copy(from: &str, to: &str) -> Ran {
    let mut command = program();
    command.args(["queue", "copy", "--json", "--from", from, "--to", to]).stdout(Stdio::piped()).stderr(Stdio::piped());
    ended(command.spawn().unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_on_in_a_copy_of_its_queue() {
    let (site, target) = (Site::new().await, tempfile::tempdir().unwrap());
    let (from, to) = (queue_url(&site.folder), queue_url(&target));
    let (thing, device) = site.source.add_rows(ROWS).await;
    let process = site.serve_on(&site.folder).await;
    let mut client = Client::connect(&process.url).await;
    let task = client.submit(&Client::request(thing, &[device], &site.topic.name)).await;
    let mut log = client.until(is_partly_published).await;
    let refused = copy(&from, &to).await;
    assert!(refused.code == Some(1) && refused.err.contains("is in use by 1 running service(s)"), "{refused:?}");
    process.kill().await;
    let copying = async {
        loop {
            let ran = copy(&from, &to).await;
            // In PostgreSQL, the one that was killed is found dead after a while.
            if !ran.err.contains("is in use") {
                return ran;
            }
        }
    };
    let copied = tokio::time::timeout(TIMEOUT, copying).await.expect("it is in use for ever");
    assert_eq!(copied.code, Some(0), "{copied:?}");
    let report = copied.json();
    let counts = ["tasks", "jobs", "openJobs", "leasesEnded"].map(|count| report[count].clone());
    assert_eq!(Value::from(counts.to_vec()), json!([1, 1, 1, 1]), "{report}");

    let process = site.serve_on(&target).await;
    let mut client = attach(&process, &task, &log).await;
    log.extend(client.log().await);
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    assert!(message(log.last().unwrap()).contains(&format!("{ROWS} rows published")), "{log:#?}");
    let (found, mut seen) = (site.topic.read_device(device).await, HashSet::new());
    let once: Vec<_> = found.iter().filter(|found| seen.insert(&found.row)).map(|found| found.value.clone()).collect();
    assert_eq!(once, site.source.docs(device).await, "every row, in order, once repeats are dropped");
    process.terminate().await;
}

#[tokio::test]
async fn a_copy_that_fails_shows_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let other = format!("sqlite://{}", folder.path().join("queue.db").display());
    for (url, expected) in [
        ("postgres://me:s3cret@127.0.0.1:1/queue", "postgres://127.0.0.1:1/queue cannot be reached"),
        ("postgres://me:s3cret@127.0.0.1:1/queue?sslmode=nonsense&password=s3cret", "ssl_mode"),
        ("mysql://me:s3cret@db/queue", "mysql://me:…@db/queue: must begin with sqlite:"),
    ] {
        let ran = copy(url, &other).await;
        assert!(ran.code == Some(1) && ran.out.is_empty() && ran.err.contains(expected), "{url}: {ran:?}");
        assert!(!ran.err.contains("s3cret"), "{ran:?}");
    }
}
