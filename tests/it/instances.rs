//! The instances on a queue: listed, and drained by an operator.

use serde_json::Value;

use crate::{
    commands_api::{endless, run},
    support::{TestApp, TestSource, eventually},
};

async fn own_instance(app: &TestApp) -> Value {
    let service = app.call("GET", "/service", &Value::Null).await.json();
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
