//! The OpenAPI document of the API. The schemas are generated from the types that serve the
//! requests. What each endpoint takes and answers is written in [`operations`]; tests hold it
//! against the routes, and the whole against `docs/openapi.json`.

mod catalog;
mod receipt;

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, schema::Schema},
};
use warp::{
    Reply,
    http::{HeaderValue, header},
    reply::Response,
};

use crate::protocol::http::{
    DEFAULT_LIMIT, EventView, InstanceView, JobView, MAX_LIMIT, PREFIX, Page, Problem, QuarantineView, RateRequest, RetryRequest,
    ServiceView, SubmitRequest, TaskView,
};

/// `GET /data-patch/openapi.json`
pub fn openapi() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());
    let mut response = DOCUMENT.as_str().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An endpoint.
struct Operation {
    id: &'static str,
    method: &'static str,
    /// Below the prefix.
    path: &'static str,
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    /// What it answers when it succeeds, by status.
    answers: Vec<(u16, Value)>,
    /// The errors that not every endpoint has.
    errors: Vec<u16>,
}

/// The schemas that the document refers to.
#[derive(Default)]
struct Schemas(BTreeMap<String, RefOr<Schema>>);

impl Schemas {
    /// A reference to the schema of a type.
    fn of<T: ToSchema>(&mut self) -> Value {
        let mut used = Vec::new();
        T::schemas(&mut used);
        self.0.extend(used);
        self.0.insert(T::name().into_owned(), T::schema());
        json!({ "$ref": format!("#/components/schemas/{}", T::name()) })
    }

    /// The schema of a page of a list.
    fn page<T: ToSchema>(&mut self) -> Value {
        self.of::<T>();
        json!(Page::<T>::schema())
    }
}

fn document() -> Value {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    for operation in operations(&mut schemas) {
        let path = paths.entry(format!("{PREFIX}{}", operation.path)).or_insert_with(|| json!({}));
        if let Some(methods) = path.as_object_mut() {
            methods.insert(operation.method.to_owned(), described(operation));
        }
    }
    let problem = schemas.of::<Problem>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "data-patch",
            "description": "Replays an IoT platform's raw readings into Kafka, and accounts for every row.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "version": env!("CARGO_PKG_VERSION"),
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The service's token or a named one. A viewer may use every GET, preview and verify; the others need an operator.",
            }},
            "responses": responses(&problem),
            "schemas": schemas.0,
        },
    })
}

fn described(operation: Operation) -> Value {
    let Operation { id, summary, parameters, body, answers, errors, .. } = operation;
    let mut responses: Map<_, _> = answers.into_iter().map(|(status, answer)| (status.to_string(), answer)).collect();
    for status in [400, 401, 403, 405, 413, 503].into_iter().chain(errors) {
        responses.insert(status.to_string(), json!({ "$ref": format!("#/components/responses/{status}") }));
    }
    let mut described = json!({"operationId": id, "summary": summary, "responses": responses});
    if !parameters.is_empty() {
        described = with(described, "", "parameters", json!(parameters));
    }
    if let Some(body) = body {
        described = with(described, "", "requestBody", body);
    }
    described
}

/// The errors, by status.
fn responses(problem: &Value) -> Value {
    let error =
        |description: &str| json!({"description": description, "content": {"application/problem+json": {"schema": problem}}});
    let header = |error: Value, name: &str| with(error, "", "headers", json!({ name: {"schema": {"type": "string"}} }));
    let unauthorized = error("The token is missing, malformed or wrong.");
    let unavailable = error(
        "The service is stopping, its queue or the IoTA source is unavailable, or it has too many connections (plain text).",
    );
    let unavailable = with(unavailable, "/content", "text/plain", text());
    json!({
        "400": error("A parameter, a header or the body is wrong; `field` says which."),
        "401": header(unauthorized, "WWW-Authenticate"),
        "403": error("The role of the token may not do this, or pages of this origin may not use the service."),
        "404": error("There is no such task or instance."),
        "405": header(error("The path does not have this method."), "Allow"),
        "409": error("The key belongs to another request, the task is not finished, or it has nothing to retry."),
        "413": error("The body is larger than `server.max_message_bytes`."),
        "415": error("The body is not `application/json`."),
        "429": header(error("As many of these run as may at once."), "Retry-After"),
        "503": header(unavailable, "Retry-After"),
    })
}

fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let mut operations = vec![submit(schemas), list(schemas), set_rate(schemas), jobs(schemas), events(schemas)];
    let task = schemas.of::<TaskView>();
    let on_task = |id, method, path, summary| Operation {
        id,
        method,
        path,
        summary,
        parameters: vec![task_id()],
        body: None,
        answers: vec![(200, answer("The task.", &task))],
        errors: vec![404],
    };
    operations.extend([
        on_task("showTask", "get", "/tasks/{taskId}", "One task"),
        on_task("cancelTask", "post", "/tasks/{taskId}/cancel", "Stops publishing a task for good"),
        on_task("pauseTask", "post", "/tasks/{taskId}/pause", "Stops a task until it is resumed"),
        on_task("resumeTask", "post", "/tasks/{taskId}/resume", "Lets a paused task continue where it is"),
    ]);
    operations.extend([retry(schemas), quarantine(schemas), receipt::receipt(schemas), receipt::verify(schemas)]);
    operations.extend([catalog::preview(schemas), catalog::things(schemas), catalog::devices(schemas)]);
    operations.push(Operation {
        id: "showService",
        method: "get",
        path: "/service",
        summary: "The service that answers, its limits, and whose token this is",
        parameters: Vec::new(),
        body: None,
        answers: vec![(200, answer("The service.", &schemas.of::<ServiceView>()))],
        errors: Vec::new(),
    });
    let instance = schemas.of::<InstanceView>();
    operations.extend(
        [
            ("drainInstance", "/instances/{instanceId}/drain", "Asks an instance to hand its jobs back and to take no others"),
            ("resumeInstance", "/instances/{instanceId}/resume", "Lets an instance that was drained take jobs again"),
        ]
        .map(|(id, path, summary)| Operation {
            id,
            method: "post",
            path,
            summary,
            parameters: vec![parameter(
                "path",
                "instanceId",
                "As `GET /service` lists it.",
                &json!({"type": "string", "format": "uuid"}),
            )],
            body: None,
            answers: vec![(200, answer("The instance. It follows within about a second.", &instance))],
            errors: vec![404],
        }),
    );
    operations
}

fn submit(schemas: &mut Schemas) -> Operation {
    let key = json!({"type": "string", "minLength": 1, "maxLength": 128});
    Operation {
        id: "submitTask",
        method: "post",
        path: "/tasks",
        summary: "Submits a task",
        parameters: vec![parameter("header", "Idempotency-Key", "The `requestId`: the same again creates nothing.", &key)],
        body: Some(body(true, &schemas.of::<SubmitRequest>())),
        answers: created(schemas),
        errors: vec![409, 415],
    }
}

fn retry(schemas: &mut Schemas) -> Operation {
    Operation {
        id: "retryTask",
        method: "post",
        path: "/tasks/{taskId}/retry",
        summary: "A new task for devices of a finished one: without a body those that failed or were cancelled",
        parameters: vec![task_id()],
        body: Some(body(false, &schemas.of::<RetryRequest>())),
        answers: created(schemas),
        errors: vec![404, 409, 415],
    }
}

fn set_rate(schemas: &mut Schemas) -> Operation {
    Operation {
        id: "setTaskRate",
        method: "patch",
        path: "/tasks/{taskId}",
        summary: "Changes the most rows a second of a task",
        parameters: vec![task_id()],
        body: Some(body(true, &schemas.of::<RateRequest>())),
        answers: vec![(200, answer("The task.", &schemas.of::<TaskView>()))],
        errors: vec![404, 415],
    }
}

fn list(schemas: &mut Schemas) -> Operation {
    let uuid = json!({"type": "string", "format": "uuid"});
    let time = json!({"type": "string", "examples": ["2019-01-11T21:03:00.000+0800", "2019-01-11 21:03:00"]});
    let text = json!({"type": "string"});
    Operation {
        id: "listTasks",
        method: "get",
        path: "/tasks",
        summary: "The tasks, newest first",
        parameters: vec![
            states(),
            query("thing", "Tasks of this thing", &uuid),
            query("device", "Tasks with this device", &uuid),
            query("topic", "Tasks for this topic", &text),
            query("since", "Tasks created at this time or later", &time),
            query("until", "Tasks created at this time or earlier", &time),
            query("q", "Tasks whose id begins with this text, or whose reason contains it", &text),
            cursor(&uuid),
            limit(),
        ],
        body: None,
        answers: vec![(200, answer("A page of tasks.", &schemas.page::<TaskView>()))],
        errors: Vec::new(),
    }
}

fn jobs(schemas: &mut Schemas) -> Operation {
    let number = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
    Operation {
        id: "listJobs",
        method: "get",
        path: "/tasks/{taskId}/jobs",
        summary: "The devices of a task",
        parameters: vec![task_id(), states(), cursor(&number), limit()],
        body: None,
        answers: vec![(200, answer("A page of devices.", &schemas.page::<JobView>()))],
        errors: vec![404],
    }
}

fn events(schemas: &mut Schemas) -> Operation {
    let seq = json!({"type": "integer", "minimum": 0});
    let entries =
        answer("A page of the log, or a stream of it: `id` is `seq`, `data` an EventView.", &schemas.page::<EventView>());
    let entries = with(entries, "/content", "text/event-stream", text());
    Operation {
        id: "listEvents",
        method: "get",
        path: "/tasks/{taskId}/events",
        summary: "The log of a task, as pages or as server-sent events",
        parameters: vec![
            task_id(),
            query("after", "Entries after this `seq`; not together with `cursor`", &seq),
            cursor(&seq),
            limit(),
            parameter("header", "Last-Event-ID", "Of a stream: the `id` of the last event; overrides `after`", &seq),
            parameter("header", "Accept-Language", "`text` is Chinese or English", &json!({"type": "string"})),
        ],
        body: None,
        answers: vec![
            (200, entries),
            (204, json!({"description": "The task is finished, and the last event is the one in `Last-Event-ID`."})),
        ],
        errors: vec![404],
    }
}

fn quarantine(schemas: &mut Schemas) -> Operation {
    let rows = answer("A page of rows.", &schemas.page::<QuarantineView>());
    let rows = with(rows, "/content", "text/csv", text());
    let next = json!({"Next-Cursor": {"description": "`next`, if the answer is CSV", "schema": {"type": "string"}}});
    let rows = with(rows, "", "headers", next);
    Operation {
        id: "listQuarantine",
        method: "get",
        path: "/tasks/{taskId}/quarantine",
        summary: "The rows of a task that were not published",
        parameters: vec![task_id(), cursor(&json!({"type": "string"})), limit()],
        body: None,
        answers: vec![(200, rows)],
        errors: vec![404],
    }
}

/// An object with a further entry, in the object that `pointer` names.
fn with(mut object: Value, pointer: &str, name: &str, value: Value) -> Value {
    if let Some(inner) = object.pointer_mut(pointer).and_then(Value::as_object_mut) {
        inner.insert(name.to_owned(), value);
    }
    object
}

fn text() -> Value {
    json!({"schema": {"type": "string"}})
}

fn answer(description: &str, schema: &Value) -> Value {
    json!({"description": description, "content": {"application/json": {"schema": schema}}})
}

fn created(schemas: &mut Schemas) -> Vec<(u16, Value)> {
    let task = schemas.of::<TaskView>();
    [(201, "The new task, durable by now."), (200, "The task that the same request has created before.")]
        .map(|(status, description)| {
            let location = json!({"Location": {"schema": {"type": "string"}}});
            (status, with(answer(description, &task), "", "headers", location))
        })
        .into()
}

fn body(required: bool, schema: &Value) -> Value {
    json!({"required": required, "content": {"application/json": {"schema": schema}}})
}

fn parameter(place: &str, name: &str, description: &str, schema: &Value) -> Value {
    json!({"in": place, "name": name, "description": description, "required": place == "path", "schema": schema})
}

fn query(name: &str, description: &str, schema: &Value) -> Value {
    parameter("query", name, description, schema)
}

fn task_id() -> Value {
    parameter("path", "taskId", "The task", &json!({"type": "string", "format": "uuid"}))
}

fn cursor(schema: &Value) -> Value {
    query("cursor", "The `next` of the page before", schema)
}

fn limit() -> Value {
    let schema = json!({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT});
    query("limit", "The most items of a page", &schema)
}

fn states() -> Value {
    let state = json!({"type": "string", "enum": ["queued", "running", "succeeded", "failed", "cancelled"]});
    query("state", "In one of these states; may be given more than once", &json!({"type": "array", "items": state}))
}

#[cfg(test)]
mod tests;
