use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Role;

fn policy() -> RequestPolicy {
    RequestPolicy {
        time_zone: chrono_tz::Asia::Shanghai,
        max_devices: 3,
        default_topic: "anxinyun_data".to_owned(),
        topics: Vec::new(),
        default_rate: None,
        max_rate: None,
        ignore_unknown_fields: false,
    }
}

fn authenticate(candidate: &str) -> Option<Identity> {
    Token::new("123456").matches(candidate).then(|| Identity::new("default", Role::Operator))
}

fn parse(text: &str, policy: &RequestPolicy) -> Result<ClientMessage, RequestError> {
    ClientMessage::parse(text, authenticate, policy)
}

fn request() -> Value {
    json!({
        "src": "iota", "token": "123456", "topic": "savoir_data", "thingId": "9d9d14b3-cf77-4cba-934b-faeaf2d153ba",
        "devices": ["0fc608c2-5d7c-45a0-a5f7-c423a08fa0d0", " b34299aa-625e-4404-a580-fde1d7cbc3e8\n", "0FC608C2-5D7C-45A0-A5F7-C423A08FA0D0"],
        "from": "2019-01-11T21:03:00.000+0800", "to": "2019-01-15T14:30:00.000+0800"
    })
}

fn with(field: &str, value: Value) -> Result<ClientMessage, RequestError> {
    let mut request = request();
    request[field] = value;
    parse(&request.to_string(), &policy())
}

fn submitted(message: Result<ClientMessage, RequestError>) -> NewTask {
    match message {
        Ok(ClientMessage::Submit(submit)) => submit.task,
        other => panic!("no submit: {other:?}"),
    }
}

#[test]
fn a_submit_is_read() {
    let submit = submitted(parse(&request().to_string(), &policy()));
    assert_eq!(submit.topic, "savoir_data");
    assert_eq!(submit.devices.len(), 2, "whitespace trimmed, the duplicate dropped");
    assert_eq!(submit.devices[0].to_string(), "0fc608c2-5d7c-45a0-a5f7-c423a08fa0d0");
    assert_eq!(submit.from.to_rfc3339_opts(SecondsFormat::AutoSi, true), "2019-01-11T13:03:00Z");
}

#[test]
fn optional_fields_have_defaults() {
    let submit = submitted(with("topic", Value::Null));
    assert_eq!((submit.topic.as_str(), submit.request_id), ("anxinyun_data", None));
    let text = r#"{"token":"123456","taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba"}"#;
    let ClientMessage::Attach(attach) = parse(text, &policy()).unwrap() else { panic!("no attach") };
    assert_eq!(attach.after, 0);
}

#[test]
fn an_error_names_the_field_and_the_remedy() {
    for (field, value, expected) in [
        ("src", json!("ET"), "src is \"ET\"; only \"iota\" is supported"),
        ("src", json!(null), "src is missing"),
        ("token", json!(123_456), "token is a number; it must be a string"),
        ("token", json!(null), "token is missing"),
        ("topic", json!("a topic"), "topic is \"a topic\", which is not a legal topic name"),
        ("topic", json!(""), "topic is \"\", which is not a legal"),
        ("topic", json!(".."), "topic is \"..\", which is not a legal"),
        ("topic", json!("x".repeat(250)), "which is not a legal topic name"),
        ("topic", json!("__consumer_offsets"), "one of Kafka's internal topics"),
        ("topic", json!(5), "topic is the number 5"),
        ("thingId", json!("bridge"), "thingId is \"bridge\", which is not a UUID"),
        ("thingId", json!({}), "thingId is an object"),
        ("devices", json!([]), "devices is an empty array"),
        ("devices", json!("b34299aa-625e-4404-a580-fde1d7cbc3e8"), "devices is \"b34299aa"),
        ("devices", json!(["b34299aa-625e-4404-a580-fde1d7cbc3e8", 7]), "devices[1] is the number 7"),
        ("devices", json!([""]), "devices[0] is \"\", which is not a UUID"),
        ("devices", json!((0..4).map(Uuid::from_u128).collect::<Vec<_>>()), "devices is an array of 4 devices; at most 3"),
        ("from", json!("2019-02-30 00:00:00"), "from is \"2019-02-30 00:00:00\", which is a date or time that does not exist"),
        ("from", json!("yesterday"), "accepted are 2019-01-11T21:03:00.000+0800"),
        (
            "from",
            json!("2019-01-16 00:00:00"),
            "from is after to (\"2019-01-16 00:00:00\" > \"2019-01-15T14:30:00.000+0800\"); it must be",
        ),
        (
            "from",
            json!("2019-01-15T07:00:00Z"),
            "> \"2019-01-15T14:30:00.000+0800\", which in one offset are 2019-01-15T07:00:00+00:00 > 2019-01-15T06:30:00+00:00)",
        ),
        ("to", json!(1_547_211_780), "to is a number"),
        ("requestId", json!(""), "requestId is a string of 0 characters"),
        ("requestId", json!("水".repeat(129)), "requestId is a string of 129 characters"),
    ] {
        let error = with(field, value.clone()).expect_err(&format!("{field} = {value}")).to_string();
        assert!(error.contains(expected), "{field} = {value}: {error}");
    }
    assert_eq!(with("token", json!("12345")), Err(RequestError::WrongToken));
    assert!(with("requestId", json!("水".repeat(128))).is_ok());
}

#[test]
fn the_token_is_checked_first_and_never_echoed() {
    let mut request = request();
    request["token"] = json!("guess");
    request["thingId"] = json!("bridge");
    let error = parse(&request.to_string(), &policy()).unwrap_err();
    assert_eq!(error, RequestError::WrongToken);
    assert!(!error.to_string().contains("guess"));
}

#[test]
fn messages_without_a_known_shape_are_refused() {
    for text in ["{}", "[]", "5", "null", "\"x\"", r#"{"token":"123456"}"#, r#"{"hello":1}"#, "\u{feff}{}"] {
        assert_eq!(parse(text, &policy()), Err(RequestError::Shape), "{text}");
    }
    for text in ["", "{", "{\"src\":}", "\u{feff}\u{feff}{}", "hello"] {
        assert!(matches!(parse(text, &policy()), Err(RequestError::NotJson(_))), "{text}");
    }
    for after in ["-1", "1.5", "\"1\"", "18446744073709551616"] {
        let text = format!(r#"{{"token":"123456","taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","after":{after}}}"#);
        assert!(parse(&text, &policy()).unwrap_err().to_string().contains("after is"), "{after}");
    }
}

#[test]
fn a_byte_order_mark_is_ignored() {
    submitted(parse(&format!("\u{feff}{}", request()), &policy()));
}

#[test]
fn an_unknown_field_is_refused_with_a_suggestion() {
    for (field, expected) in [
        ("topics", "`topics` is not known here; did you mean `topic`?"),
        ("Topic", "`Topic` is not known here; did you mean `topic`?"),
        (
            "dryRun",
            "`dryRun` is not known here; known are src, token, thingId, devices, from, to, topic, requestId, reason, rate.",
        ),
        ("priority", "`priority` is not known here; known are"),
        ("Cancel", "`Cancel` is not known here; known are"),
        ("taskId", "`taskId` does not belong in a message that submits a task"),
        ("", "`` is not known here; known are"),
    ] {
        let error = with(field, json!(true)).expect_err(field);
        assert!(error.to_string().starts_with(expected), "{field}: {error}");
        assert_eq!(error.code(), "unknown_field");
    }
    for (fields, expected) in [
        (r#""Cancel":true"#, "`Cancel` is not known here; did you mean `cancel`?"),
        (r#""stop":true"#, "`stop` is not known here; known are token, taskId, after, cancel, pause, resume, retry, rate."),
        (r#""topic":"x""#, "`topic` does not belong in a message about a task that exists"),
    ] {
        let text = format!(r#"{{"token":"123456","taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba",{fields}}}"#);
        let error = parse(&text, &policy()).expect_err(fields);
        assert!(error.to_string().starts_with(expected), "{fields}: {error}");
        assert_eq!(error.code(), "unknown_field");
    }
    let error = parse(r#"{"token":"123456","taskID":"x"}"#, &policy()).unwrap_err().to_string();
    assert_eq!(error, "`taskID` is not known here; did you mean `taskId`?");
}

#[test]
fn ignored_fields_are_named_and_restricting_ones_are_refused() {
    let policy = RequestPolicy { ignore_unknown_fields: true, ..policy() };
    let parse = |field: &str, value: Value| {
        let mut request = request();
        request["project"] = json!("bridge");
        request[field] = value;
        parse(&request.to_string(), &policy)
    };
    let Ok(ClientMessage::Submit(submit)) = parse("note", json!({"by": "ET"})) else { panic!("not accepted") };
    assert_eq!(submit.ignored, ["`note`", "`project`"]);
    for field in ["dryRun", "dry_run", "Rate", "Pause", "cancell"] {
        let error = parse(field, json!(true)).expect_err(field).to_string();
        assert!(error.starts_with(&format!("`{field}` is not known here")) && !error.contains("project"), "{error}");
    }
    assert!(parse("dryRun", json!(false)).is_ok(), "it restricts nothing");
    assert!(parse("taskId", json!("x")).is_err(), "the kind of message is ambiguous");
}

#[test]
fn a_field_given_twice_is_refused() {
    let text = request().to_string().replacen('{', r#"{"topic":"anxinyun_data","#, 1);
    let error = parse(&text, &policy()).unwrap_err();
    assert_eq!((error.code(), error.to_string().starts_with("`topic` is given more than once")), ("repeated_field", true));
    let error = parse(r#"{"token":"guess","token":"123456","taskId":"x"}"#, &policy()).unwrap_err().to_string();
    assert_eq!(error, "token is given more than once; give it once");
}

#[test]
fn a_token_in_a_field_name_or_a_stored_field_is_not_shown() {
    for field in ["123456", "my123456"] {
        let error = with(field, json!(1)).unwrap_err().to_string();
        assert!(error.starts_with("a field whose name contains the token") && !error.contains("123456"), "{error}");
    }
    for field in ["topic", "requestId"] {
        let error = with(field, json!("123456")).unwrap_err().to_string();
        assert!(error.starts_with(field) && !error.contains("123456"), "{error}");
    }
}

#[test]
fn the_error_names_the_allowed_topics() {
    let policy = RequestPolicy { topics: vec!["anxinyun_data".to_owned(), "__replay".to_owned()], ..policy() };
    let error = parse(&request().to_string(), &policy).unwrap_err().to_string();
    assert!(error.contains("\"savoir_data\", which is not allowed here; allowed are anxinyun_data, __replay"), "{error}");
}

proptest! {
    #[test]
    fn no_message_causes_a_panic(text in "\\PC{0,200}") {
        let _ = parse(&text, &policy());
    }

    #[test]
    fn any_other_field_is_refused(name in "\\PC{0,20}", value in prop_oneof![Just(json!(null)), Just(json!(true)), Just(json!("x"))]) {
        let is_known = SUBMIT.contains(&name.as_str()) || value.is_null() && TASK.contains(&name.as_str());
        prop_assume!(!is_known);
        prop_assert_eq!(with(&name, value).map_err(|error| error.code()), Err("unknown_field"));
    }
}

#[test]
fn a_token_in_a_wrong_field_is_not_shown() {
    for field in ["src", "topic", "thingId", "from"] {
        let error = with(field, json!("my token 123456")).unwrap_err().to_string();
        assert!(error.starts_with(field) && !error.contains("123456"), "{error}");
    }
}

#[test]
fn a_cancel_is_read() {
    let with = |cancel: &str| {
        let text = format!(r#"{{"token":"123456","taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","cancel":{cancel}}}"#);
        parse(&text, &policy())
    };
    assert!(matches!(with("true"), Ok(ClientMessage::Steer(_, Steering::Cancel))));
    assert!(matches!(with("false"), Ok(ClientMessage::Attach(_))));
    assert!(with("1").unwrap_err().to_string().starts_with("cancel is the number 1"));
}

fn about_a_task(fields: &Value) -> Result<ClientMessage, RequestError> {
    let mut message = json!({ "token": "123456", "taskId": "9d9d14b3-cf77-4cba-934b-faeaf2d153ba" });
    for (name, value) in fields.as_object().unwrap() {
        message[name] = value.clone();
    }
    parse(&message.to_string(), &policy())
}

#[test]
fn a_task_is_steered_by_one_field_a_message() {
    for (fields, expected) in [
        (json!({ "pause": true }), Steering::Pause),
        (json!({ "resume": true, "pause": false }), Steering::Resume),
        (json!({ "retry": true }), Steering::Retry),
        (json!({ "rate": 500 }), Steering::Rate(NonZeroU32::new(500))),
        (json!({ "rate": null }), Steering::Rate(None)),
    ] {
        let message = about_a_task(&fields);
        assert!(matches!(message, Ok(ClientMessage::Steer(_, steering)) if steering == expected), "{fields}: {message:?}");
    }
    for (fields, field) in [
        (json!({ "pause": true, "rate": 5 }), "rate"),
        (json!({ "pause": 1 }), "pause"),
        (json!({ "rate": 0 }), "rate"),
        (json!({ "rate": 1.5 }), "rate"),
        (json!({ "rate": -1 }), "rate"),
    ] {
        let error = about_a_task(&fields).unwrap_err();
        assert!(matches!(&error, RequestError::Invalid { field: found, .. } if found == field), "{fields}: {error}");
    }
}

#[test]
fn a_rate_is_within_the_limit_of_the_service() {
    let (rate, policy) = (NonZeroU32::new, policy());
    let limited = RequestPolicy { default_rate: rate(100), max_rate: rate(1_000), ..policy.clone() };
    let submitted = |request: &Value, policy| submitted(parse(&request.to_string(), policy)).rate;
    assert_eq!((submitted(&request(), &policy), submitted(&request(), &limited)), (None, rate(100)));
    let mut request = request();
    request["rate"] = json!(1_000);
    assert_eq!(submitted(&request, &limited), rate(1_000));
    request["rate"] = json!(1_001);
    let error = parse(&request.to_string(), &limited).unwrap_err();
    assert!(error.to_string().contains("at most 1000 rows a second"), "{error}");
}

#[test]
fn the_body_of_an_http_request_is_a_submission_without_a_token() {
    let mut body = request();
    let token = body["token"].take();
    body.as_object_mut().unwrap().remove("token");
    assert!(Submit::from_body(&body.to_string(), "123456", &policy()).is_ok());
    body["token"] = token;
    let error = Submit::from_body(&body.to_string(), "123456", &policy()).unwrap_err();
    assert_eq!(error.code(), "unknown_field");
    assert!(!error.to_string().contains("123456"), "{error}");
}
