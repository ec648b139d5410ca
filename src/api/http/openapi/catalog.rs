//! Previews, and the lists to choose from.

use serde_json::{Value, json};

use super::{Operation, Schemas, answer, body, cursor, limit, parameter, query};
use crate::protocol::http::{DeviceView, PreviewLine, SubmitRequest, ThingView};

pub(super) fn preview(schemas: &mut Schemas) -> Operation {
    let line = schemas.of::<PreviewLine>();
    let lines = json!({
        "description": "A JSON value on each line: one for each device as it is known, then the summary. Lines may be empty.",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}, "x-line-schema": line}},
    });
    Operation {
        id: "preview",
        method: "post",
        path: "/previews",
        summary: "What a submission would publish; publishes nothing",
        parameters: Vec::new(),
        body: Some(body(true, &schemas.of::<SubmitRequest>())),
        answers: vec![(200, lines)],
        errors: vec![415, 429],
    }
}

pub(super) fn things(schemas: &mut Schemas) -> Operation {
    Operation {
        id: "listThings",
        method: "get",
        path: "/things",
        summary: "The things that have devices, by name and id",
        parameters: vec![search(), cursor(&json!({"type": "string"})), limit()],
        body: None,
        answers: vec![(200, answer("A page of things.", &schemas.page::<ThingView>()))],
        errors: Vec::new(),
    }
}

pub(super) fn devices(schemas: &mut Schemas) -> Operation {
    let thing = parameter("path", "thingId", "The thing", &json!({"type": "string", "format": "uuid"}));
    Operation {
        id: "listDevices",
        method: "get",
        path: "/things/{thingId}/devices",
        summary: "The devices of a thing, by name and id; none if there is no such thing",
        parameters: vec![thing, search(), cursor(&json!({"type": "string"})), limit()],
        body: None,
        answers: vec![(200, answer("A page of devices.", &schemas.page::<DeviceView>()))],
        errors: Vec::new(),
    }
}

fn search() -> Value {
    let schema = json!({"type": "string", "maxLength": 100});
    query("q", "Only those whose name or id contains this text, in upper or lower case", &schema)
}
