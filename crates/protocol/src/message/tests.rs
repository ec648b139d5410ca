use proptest::prelude::*;
use serde_json::json;

use super::*;

fn rules() -> RequestPolicy {
    RequestPolicy {
        token: Token::new("123456"),
        time_zone: chrono_tz::Asia::Shanghai,
        max_devices: 3,
        default_topic: "anxinyun_data".to_owned(),
        topics: Vec::new(),
        ignore_unknown_fields: false,
    }
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
    ClientMessage::parse(&request.to_string(), &rules())
}

fn submitted(message: Result<ClientMessage, RequestError>) -> NewTask {
    match message {
        Ok(ClientMessage::Submit(submit)) => submit.task,
        other => panic!("no submit: {other:?}"),
    }
}

#[test]
fn a_submit_is_read() {
    let submit = submitted(ClientMessage::parse(&request().to_string(), &rules()));
    assert_eq!(submit.topic, "savoir_data");
    assert_eq!(submit.devices.len(), 2, "white space trimmed, the double dropped");
    assert_eq!(submit.devices[0].to_string(), "0fc608c2-5d7c-45a0-a5f7-c423a08fa0d0");
    assert_eq!(submit.from.to_rfc3339_opts(SecondsFormat::AutoSi, true), "2019-01-11T13:03:00Z");
}

#[test]
fn optional_fields_have_defaults() {
    let submit = submitted(with("topic", Value::Null));
    assert_eq!((submit.topic.as_str(), submit.request_id), ("anxinyun_data", None));
    let text = r#"{"token":"123456","taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba"}"#;
    let ClientMessage::Attach(attach) = ClientMessage::parse(text, &rules()).unwrap() else { panic!("no attach") };
    assert_eq!(attach.after, 0);
}

#[test]
fn a_refusal_names_the_field_and_the_remedy() {
    for (field, value, said) in [
        ("src", json!("ET"), "src is \"ET\"; only \"iota\" is known"),
        ("src", json!(null), "src is missing"),
        ("token", json!(123_456), "token is a number; it must be a text"),
        ("token", json!(null), "token is missing"),
        ("topic", json!("a topic"), "topic is \"a topic\", which is no legal topic name"),
        ("topic", json!(""), "topic is \"\", which is no legal"),
        ("topic", json!(".."), "topic is \"..\", which is no legal"),
        ("topic", json!("x".repeat(250)), "which is no legal topic name"),
        ("topic", json!("__consumer_offsets"), "one of Kafka's own"),
        ("topic", json!(5), "topic is the number 5"),
        ("thingId", json!("bridge"), "thingId is \"bridge\", which is no UUID"),
        ("thingId", json!({}), "thingId is an object"),
        ("devices", json!([]), "devices is an empty list"),
        ("devices", json!("b34299aa-625e-4404-a580-fde1d7cbc3e8"), "devices is \"b34299aa"),
        ("devices", json!(["b34299aa-625e-4404-a580-fde1d7cbc3e8", 7]), "devices[1] is the number 7"),
        ("devices", json!([""]), "devices[0] is \"\", which is no UUID"),
        ("devices", json!((0..4).map(Uuid::from_u128).collect::<Vec<_>>()), "devices is a list of 4 devices; at most 3"),
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
        ("requestId", json!(""), "requestId is a text of 0 characters"),
        ("requestId", json!("水".repeat(129)), "requestId is a text of 129 characters"),
    ] {
        let refusal = with(field, value.clone()).expect_err(&format!("{field} = {value}")).to_string();
        assert!(refusal.contains(said), "{field} = {value}: {refusal}");
    }
    assert_eq!(with("token", json!("12345")), Err(RequestError::WrongToken));
    assert!(with("requestId", json!("水".repeat(128))).is_ok());
}

#[test]
fn the_token_comes_before_all_else_and_is_never_echoed() {
    let mut request = request();
    request["token"] = json!("guess");
    request["thingId"] = json!("bridge");
    let refusal = ClientMessage::parse(&request.to_string(), &rules()).unwrap_err();
    assert_eq!(refusal, RequestError::WrongToken);
    assert!(!refusal.to_string().contains("guess"));
}

#[test]
fn other_shapes() {
    for text in ["{}", "[]", "5", "null", "\"x\"", r#"{"token":"123456"}"#, r#"{"hello":1}"#, "\u{feff}{}"] {
        assert_eq!(ClientMessage::parse(text, &rules()), Err(RequestError::Shape), "{text}");
    }
    for text in ["", "{", "{\"src\":}", "\u{feff}\u{feff}{}", "hello"] {
        assert!(matches!(ClientMessage::parse(text, &rules()), Err(RequestError::NotJson(_))), "{text}");
    }
    for after in ["-1", "1.5", "\"1\"", "18446744073709551616"] {
        let text = format!(r#"{{"token":"123456","taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","after":{after}}}"#);
        assert!(ClientMessage::parse(&text, &rules()).unwrap_err().to_string().contains("after is"), "{after}");
    }
}

#[test]
fn a_byte_order_mark_is_ignored() {
    submitted(ClientMessage::parse(&format!("\u{feff}{}", request()), &rules()));
}

#[test]
fn an_unknown_field_is_refused_by_name_with_the_likely_one() {
    for (field, said) in [
        ("topics", "`topics` is not known here; did you mean `topic`?"),
        ("Topic", "`Topic` is not known here; did you mean `topic`?"),
        ("dryRun", "`dryRun` is not known here; known are src, token, thingId, devices, from, to, topic, requestId."),
        ("reason", "`reason` is not known here; known are"),
        ("Cancel", "`Cancel` is not known here; known are"),
        ("taskId", "`taskId` does not belong in a message that submits a task"),
        ("", "`` is not known here; known are"),
    ] {
        let refusal = with(field, json!(true)).expect_err(field);
        assert!(refusal.to_string().starts_with(said), "{field}: {refusal}");
        assert_eq!(refusal.code(), "unknown_field");
    }
    for (fields, said) in [
        (r#""Cancel":true"#, "`Cancel` is not known here; did you mean `cancel`?"),
        (r#""pause":true"#, "`pause` is not known here; known are token, taskId, after, cancel."),
        (r#""topic":"x""#, "`topic` does not belong in a message about a task that exists"),
    ] {
        let text = format!(r#"{{"token":"123456","taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba",{fields}}}"#);
        let refusal = ClientMessage::parse(&text, &rules()).expect_err(fields);
        assert!(refusal.to_string().starts_with(said), "{fields}: {refusal}");
        assert_eq!(refusal.code(), "unknown_field");
    }
    let refusal = ClientMessage::parse(r#"{"token":"123456","taskID":"x"}"#, &rules()).unwrap_err().to_string();
    assert_eq!(refusal, "`taskID` is not known here; did you mean `taskId`?");
}

#[test]
fn where_unknown_fields_are_ignored_they_are_kept_by_name_and_none_that_asks_for_less() {
    let rules = RequestPolicy { ignore_unknown_fields: true, ..rules() };
    let parse = |field: &str, value: Value| {
        let mut request = request();
        request["project"] = json!("bridge");
        request[field] = value;
        ClientMessage::parse(&request.to_string(), &rules)
    };
    let Ok(ClientMessage::Submit(submit)) = parse("note", json!({"by": "ET"})) else { panic!("not accepted") };
    assert_eq!(submit.ignored, ["`note`", "`project`"]);
    for field in ["dryRun", "dry_run", "rate", "Pause", "cancell"] {
        let refusal = parse(field, json!(true)).expect_err(field).to_string();
        assert!(refusal.starts_with(&format!("`{field}` is not known here")) && !refusal.contains("project"), "{refusal}");
    }
    assert!(parse("dryRun", json!(false)).is_ok(), "it asks for nothing");
    assert!(parse("taskId", json!("x")).is_err(), "which of the two is meant can't be told");
}

#[test]
fn a_field_given_twice_is_refused() {
    let text = request().to_string().replacen('{', r#"{"topic":"anxinyun_data","#, 1);
    let refusal = ClientMessage::parse(&text, &rules()).unwrap_err();
    assert_eq!((refusal.code(), refusal.to_string().starts_with("`topic` is given more than once")), ("repeated_field", true));
    let refusal = ClientMessage::parse(r#"{"token":"guess","token":"123456","taskId":"x"}"#, &rules()).unwrap_err().to_string();
    assert_eq!(refusal, "token is given more than once; give it once");
}

#[test]
fn a_token_as_a_fields_name_or_as_a_name_that_is_stored_is_not_shown() {
    for field in ["123456", "my123456"] {
        let refusal = with(field, json!(1)).unwrap_err().to_string();
        assert!(refusal.starts_with("a field whose name holds the token") && !refusal.contains("123456"), "{refusal}");
    }
    for field in ["topic", "requestId"] {
        let refusal = with(field, json!("123456")).unwrap_err().to_string();
        assert!(refusal.starts_with(field) && !refusal.contains("123456"), "{refusal}");
    }
}

#[test]
fn the_allow_list_is_told() {
    let rules = RequestPolicy { topics: vec!["anxinyun_data".to_owned(), "__replay".to_owned()], ..rules() };
    let refusal = ClientMessage::parse(&request().to_string(), &rules).unwrap_err().to_string();
    assert!(refusal.contains("\"savoir_data\", which is not allowed here; allowed are anxinyun_data, __replay"), "{refusal}");
}

proptest! {
    #[test]
    fn no_message_is_too_odd(text in "\\PC{0,200}") {
        let _ = ClientMessage::parse(&text, &rules());
    }

    #[test]
    fn any_other_field_is_refused(name in "\\PC{0,20}", value in prop_oneof![Just(json!(null)), Just(json!(true)), Just(json!("x"))]) {
        let is_known = SUBMIT.contains(&name.as_str()) || value.is_null() && TASK.contains(&name.as_str());
        prop_assume!(!is_known);
        prop_assert_eq!(with(&name, value).map_err(|refusal| refusal.code()), Err("unknown_field"));
    }
}

#[test]
fn a_token_in_a_wrong_field_is_not_shown() {
    for field in ["src", "topic", "thingId", "from"] {
        let refusal = with(field, json!("my token 123456")).unwrap_err().to_string();
        assert!(refusal.starts_with(field) && !refusal.contains("123456"), "{refusal}");
    }
}

#[test]
fn a_cancel_is_read() {
    let with = |cancel: &str| {
        let text = format!(r#"{{"token":"123456","taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","cancel":{cancel}}}"#);
        ClientMessage::parse(&text, &rules())
    };
    assert!(matches!(with("true"), Ok(ClientMessage::Cancel(_))));
    assert!(matches!(with("false"), Ok(ClientMessage::Attach(_))));
    assert!(with("1").unwrap_err().to_string().starts_with("cancel is the number 1"));
}
