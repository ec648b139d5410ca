use std::collections::BTreeSet;

use warp::http::Method;

use super::{
    super::route::{Action, Route},
    *,
};
use crate::{queue::Steer, task::TaskId};

/// The operation of an action. A new action does not compile until it has one here, and the
/// test fails until it is documented.
fn operation_id(action: Action) -> &'static str {
    match action {
        Action::Submit => "submitTask",
        Action::List => "listTasks",
        Action::Show(_) => "showTask",
        Action::SetRate(_) | Action::Steer(_, Steer::Rate(_)) => "setTaskRate",
        Action::Jobs(_) => "listJobs",
        Action::Events(_) => "listEvents",
        Action::Steer(_, Steer::Cancel) => "cancelTask",
        Action::Steer(_, Steer::Pause) => "pauseTask",
        Action::Steer(_, Steer::Resume) => "resumeTask",
        Action::Retry(_) => "retryTask",
        Action::Quarantine(_) => "listQuarantine",
        Action::Receipt(_) => "showReceipt",
        Action::Verify(_) => "verifyTask",
        Action::Preview => "preview",
        Action::Things => "listThings",
        Action::Devices(_) => "listDevices",
        Action::Service => "showService",
        Action::Drain(_, true) => "drainInstance",
        Action::Drain(_, false) => "resumeInstance",
    }
}

#[test]
fn each_path_has_the_methods_that_it_is_documented_with() {
    let id = TaskId::new().to_string();
    let mut documented = BTreeMap::<_, BTreeSet<_>>::new();
    for Operation { id: name, method, path, errors, body, .. } in operations(&mut Schemas::default()) {
        let route = Route::of(&path.replace("{taskId}", &id).replace("{thingId}", &id).replace("{instanceId}", &id)).unwrap();
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let action = route.action(&method).unwrap();
        assert_eq!(operation_id(action), name);
        assert_eq!((action.has_body(), errors.contains(&415)), (body.is_some(), body.is_some()), "{name}");
        assert_eq!(errors.contains(&404), path.contains("{taskId}") || path.contains("{instanceId}"), "{name}");
        documented.entry(path).or_default().insert(method.to_string());
    }
    for (path, methods) in documented {
        let allowed =
            Route::of(&path.replace("{taskId}", &id).replace("{thingId}", &id).replace("{instanceId}", &id)).unwrap().allow();
        let allowed = allowed.split(", ").filter(|method| !["HEAD", "OPTIONS"].contains(method));
        assert_eq!(allowed.map(str::to_owned).collect::<BTreeSet<_>>(), methods, "{path}");
    }
}

#[test]
fn every_reference_has_its_target() {
    let document = document();
    let text = document.to_string();
    for (_, rest) in text.match_indices("\"$ref\":\"#").map(|(at, found)| text.split_at(at + found.len())) {
        let pointer = rest.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    serde_json::from_value::<utoipa::openapi::OpenApi>(document).unwrap();
}

/// A change of the API is seen in review. `UPDATE_SNAPSHOTS=1` writes the file.
#[test]
fn the_document_is_the_one_in_docs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let document = format!("{:#}\n", document());
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(path, &document).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), document, "set UPDATE_SNAPSHOTS=1 to accept it");
}
