//! The instances on a queue: listed, drained by an operator, and limited together.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    commands_api::{endless, run},
    restart::Site,
    support::{Client, Process, TOKEN, TestApp, TestSource, call, eventually},
};

async fn own_instance(app: &TestApp) -> Value {
    own_instance_at(&app.http).await
}

async fn own_instance_at(address: &str) -> Value {
    let service = call(address, "GET", "/service", &[], "").await.json();
    let own = service["instances"].as_array().unwrap().iter().find(|listed| listed["instance"] == service["instance"]);
    own.unwrap_or_else(|| panic!("{service}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_instance_hands_its_jobs_back_and_goes_on_when_it_may() {
    let app = TestApp::start(TestSource::empty().await).await;
    let task = endless(&app).await;
    eventually("it works", async || own_instance(&app).await["jobs"] == 1).await;
    let own = own_instance(&app).await;
    assert_eq!((&own["pid"], &own["tasks"], &own["draining"]), (&std::process::id().into(), &1.into(), &false.into()), "{own}");
    let id = own["instance"].as_str().unwrap();

    let listed = run(&app, &["instances"]).await;
    assert!(listed.code == Some(0) && listed.out.contains(id) && listed.out.contains("works"), "{listed:?}");
    let drained = run(&app, &["drain", id]).await;
    assert!(drained.code == Some(0) && drained.out.contains("hands its 1 running jobs back"), "{drained:?}");
    eventually("its jobs are handed back", async || own_instance(&app).await["jobs"] == 0).await;
    assert_eq!(own_instance(&app).await["draining"], true);
    let state = app.call("GET", &format!("/tasks/{task}"), &Value::Null).await.json();
    assert_eq!(state["devices"]["queued"], 1, "{state}");

    let resumed = run(&app, &["drain", id, "--undo"]).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    eventually("it works again", async || own_instance(&app).await["jobs"] == 1).await;
    app.stop().await;
}

#[tokio::test]
async fn an_instance_that_is_not_there_is_told() {
    let app = TestApp::start(TestSource::empty().await).await;
    let unknown = run(&app, &["drain", "136d1d13-f844-4b1b-bdf9-c5f5e2117426"]).await;
    assert!(unknown.code == Some(4) && unknown.err.contains("no instance 136d1d13"), "{unknown:?}");
    let malformed = app.call("POST", "/instances/here/drain", &Value::Null).await;
    assert_eq!((malformed.status, malformed.json()["field"].as_str()), (400, Some("instanceId")), "{malformed:?}");
    app.stop().await;
}

/// A task of devices of one thing that does not end by itself. `last_id` is that of the last row in the source.
async fn submit_endless(process: &Process, site: &Site, last_id: i64, devices: i64) -> String {
    let (thing, mut of_thing) = (Uuid::new_v4(), Vec::new());
    for device in 0..devices {
        of_thing.push(site.source.add_device_with_rows(thing, last_id + 1_000 * device, 1_000).await);
    }
    let mut request = Client::request(thing, &of_thing, &site.topic.name);
    request["rate"] = json!(1);
    Client::connect(&process.url).await.submit(&request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_jobs_of_a_thing_run_than_allowed() {
    let site = Site::new().await;
    let one_each = [("DATA_PATCH_WORKER_MAX_JOBS_PER_THING", "1")];
    let process = Process::serve(&site.folder, &site.source, &site.topic, &one_each).await;
    submit_endless(&process, &site, 0, 3).await;
    let other = submit_endless(&process, &site, 3_000, 2).await;
    let address = process.address.to_string();
    eventually("each thing has a job", async || own_instance_at(&address).await["tasks"] == 2).await;
    assert_eq!(own_instance_at(&address).await["jobs"], 2);
    let cancelled = json!({ "taskId": other, "cancel": true, "token": TOKEN });
    Client::connect(&process.url).await.send(&cancelled).await;
    eventually("the other thing's job has ended", async || own_instance_at(&address).await["jobs"] == 1).await;
    process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_a_reader_runs_no_job_until_another_ends() {
    let site = Site::new().await;
    let one_reader = [("DATA_PATCH_WORKER_MAX_READERS", "1")];
    let one = Process::serve(&site.folder, &site.source, &site.topic, &one_reader).await;
    let other = Process::serve(&site.folder, &site.source, &site.topic, &one_reader).await;
    submit_endless(&one, &site, 0, 2).await;
    let mut processes = vec![one, other];
    let jobs = async |processes: &[Process]| {
        let mut jobs = Vec::new();
        for process in processes {
            jobs.push(own_instance_at(&process.address.to_string()).await["jobs"].as_u64().unwrap());
        }
        jobs
    };
    eventually("one of them has both jobs", async || {
        let mut jobs = jobs(&processes).await;
        jobs.sort_unstable();
        jobs == [0, 2]
    })
    .await;
    let works = usize::from(jobs(&processes).await[1] == 2);
    processes.remove(works).kill().await;
    eventually("the other takes over", async || jobs(&processes).await == [2]).await;
    processes.remove(0).terminate().await;
}
