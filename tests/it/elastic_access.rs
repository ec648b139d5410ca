//! Credentials, certificates and several nodes, through a proxy in front of a real Elasticsearch or
//! `OpenSearch`: each way reads; a wrong one is refused with what to set, and no secret is shown.

use std::{path::PathBuf, time::Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use data_patch::{
    config::{self, Overrides},
    source::SourceError,
};
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    elastic::{keys, open_with, read, reading, servers, source_on, time, try_read},
    source::until_2020,
    support::{
        Client, ElasticIndex, Process, TestBroker, TestSource,
        elastic::mapping,
        elastic_proxy::{Asked, Authority, ElasticProxy, Reply},
        get, message,
    },
};

const SECRET: &str = "c2VjcmV0LTZhNGY5MQ";
const GUESS: &str = "Z3Vlc3MtMTdiM2Nk";
const REFUSED: &str = r#"{"error":{"root_cause":[{"type":"security_exception","reason":"missing authentication credentials"}],"type":"security_exception","reason":"missing authentication credentials"},"status":401}"#;
const ROWS: [&str; 3] = ["a", "b", "c"];

/// Three rows of a device.
async fn three_rows(server: &str) -> (TestSource, ElasticIndex, Uuid) {
    let (tables, index) = source_on(server, &mapping()).await;
    let device = Uuid::new_v4();
    let rows: Vec<_> = (0..).zip(ROWS).map(|(n, id)| reading(id, device, &time(1_547_211_780_000 + n), n)).collect();
    index.index(&rows).await;
    (tables, index, device)
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Answers 401 without this header.
fn demand(authorization: String) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| {
        if asked.authorization.as_ref() == Some(&authorization) { Reply::Forward } else { Reply::Answer(401, REFUSED.to_owned()) }
    }
}

/// Each way to give credentials: its options with a secret, and the header that they make.
fn ways(secret: &str) -> [(Vec<(&'static str, String)>, String); 3] {
    [
        (vec![("username", "reader".to_owned()), ("password", secret.to_owned())], basic("reader", secret)),
        (vec![("api_key", secret.to_owned())], format!("ApiKey {secret}")),
        (vec![("bearer_token", secret.to_owned())], format!("Bearer {secret}")),
    ]
}

fn options(options: Vec<(&'static str, String)>) -> impl FnOnce(&mut Overrides) {
    move |overrides| {
        for (name, value) in options {
            overrides.set(&["iota", "readings", name], value);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_give_credentials_reads() {
    for server in servers() {
        let (tables, index, device) = three_rows(&server).await;
        for (given, header) in ways(SECRET) {
            let proxy = ElasticProxy::start(&server, demand(header.clone())).await;
            let source = open_with(&tables, options(given), &format!("{}/{}", proxy.url, index.name));
            assert_eq!(keys(&read(&source, until_2020(device)).await), ROWS, "{server}: {header}");
        }
        let proxy = ElasticProxy::start(&server, demand(basic("reader", "p@ss:w%"))).await;
        let url = format!("http://reader:p%40ss:w%25@{}/{}", proxy.address(), index.name);
        assert_eq!(keys(&read(&open_with(&tables, |_| {}, &url), until_2020(device)).await), ROWS, "{server}: in the URL");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_refused_with_what_to_set() {
    for server in servers() {
        let (tables, index, device) = three_rows(&server).await;
        let (right, wrong) = (ways(SECRET), ways(GUESS));
        for ((given, header), (_, expected)) in wrong.into_iter().zip(right) {
            let proxy = ElasticProxy::start(&server, demand(expected)).await;
            let source = open_with(&tables, options(given), &format!("{}/{}", proxy.url, index.name));
            let error = try_read(&source, until_2020(device)).await.unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains("401") && text.contains("iota.readings"), "{server}: {text}");
            let shown = header.split_once(' ').unwrap().1;
            assert!(!text.contains(shown) && !text.contains(GUESS), "{server}: {text}");
        }
    }
}

#[test]
fn a_configuration_shows_no_secret_of_the_readings() {
    for (given, header) in ways(SECRET) {
        let mut overrides = Overrides::default();
        overrides.set(&["iota", "readings", "url"], "https://es1:9200,es2:9200/raw_data");
        options(given)(&mut overrides);
        let shown = format!("{:?}", config::load(None, std::iter::empty(), overrides).unwrap());
        assert!(!shown.contains(SECRET) && !shown.contains(header.split_once(' ').unwrap().1), "{shown}");
    }
    let mut overrides = Overrides::default();
    overrides.set(&["iota", "readings", "url"], format!("https://reader:{SECRET}@es1:9200,es2:9200/raw_data"));
    let shown = format!("{:?}", config::load(None, std::iter::empty(), overrides).unwrap());
    assert!(!shown.contains(SECRET) && shown.contains("es2"), "{shown}");
}

/// A running service with such credentials, wrong for `demand`ed ones, shows them nowhere.
async fn check_no_secret_is_revealed(server: &str, in_url: bool, given: &[(&str, &str)], header: &str) {
    let (tables, index, device) = three_rows(server).await;
    let thing = Uuid::new_v4();
    tables.add_device(thing, device, "应变计").await;
    let right = ElasticProxy::start(server, demand(header.to_owned())).await;
    let wrong = ElasticProxy::start(server, demand("Basic other".to_owned())).await;
    let (folder, topic) = (tempfile::tempdir().unwrap(), TestBroker::start().await.topic().await);
    for (proxy, expected) in [(&right, "3 rows published"), (&wrong, "waits, nothing is lost")] {
        let user = if in_url { format!("reader:{SECRET}@") } else { String::new() };
        let url = format!("http://{user}{}/{}", proxy.address(), index.name);
        let mut more = vec![("DATA_PATCH_IOTA_READINGS_URL", url.as_str()), ("DATA_PATCH_LOG_LEVEL", "trace")];
        more.extend(given);
        let process = Process::serve(&folder, &tables, &topic, &more).await;
        let mut client = Client::connect(&process.url).await;
        client.submit(&Client::request(thing, &[device], &topic.name)).await;
        let received = client.until(|line| message(line).contains(expected)).await;
        let address = process.address.to_string();
        let (_, metrics) = get(&address, "/metrics").await;
        let (_, readiness) = get(&address, "/readyz").await;
        process.terminate().await;
        let log = Process::log(&folder);
        assert!(log.contains("TRACE"), "the finest level is on");
        let queue = std::fs::read(folder.path().join("queue.db")).unwrap();
        let queue = String::from_utf8_lossy(&queue).into_owned();
        let encoded = header.split_once(' ').unwrap().1;
        let replies = format!("{received:?}");
        let places = [("log", &log), ("replies", &replies), ("queue", &queue), ("metrics", &metrics), ("readiness", &readiness)];
        for (place, text) in places {
            let at = text.find(SECRET).or_else(|| text.find(encoded));
            let around = at.map(|at| String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(200)..at + 30]));
            assert!(at.is_none(), "{expected}: a secret is in the {place}: {around:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_reveals_no_password_of_the_readings() {
    let Some(server) = servers().into_iter().next() else { return };
    let given = [("DATA_PATCH_IOTA_READINGS_USERNAME", "reader"), ("DATA_PATCH_IOTA_READINGS_PASSWORD", SECRET)];
    check_no_secret_is_revealed(&server, false, &given, &basic("reader", SECRET)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_reveals_no_password_of_the_readings_url() {
    let Some(server) = servers().into_iter().next() else { return };
    check_no_secret_is_revealed(&server, true, &[], &basic("reader", SECRET)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_reveals_no_api_key() {
    let Some(server) = servers().into_iter().next() else { return };
    check_no_secret_is_revealed(&server, false, &[("DATA_PATCH_IOTA_READINGS_API_KEY", SECRET)], &format!("ApiKey {SECRET}"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_reveals_no_bearer_token() {
    let Some(server) = servers().into_iter().next() else { return };
    let given = [("DATA_PATCH_IOTA_READINGS_BEARER_TOKEN", SECRET)];
    check_no_secret_is_revealed(&server, false, &given, &format!("Bearer {SECRET}")).await;
}

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_verified_by_the_configured_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (Authority::new(), Authority::new());
    let own_file = file(&folder, "own.pem", &own.pem()).display().to_string();
    let other_file = file(&folder, "other.pem", &other.pem()).display().to_string();
    for server in servers() {
        let (tables, index, device) = three_rows(&server).await;
        let proxy = ElasticProxy::start_tls(&server, &own, false, |_| Reply::Forward).await;
        let url = format!("{}/{}", proxy.url, index.name);
        let source = open_with(&tables, options(vec![("ca_file", own_file.clone())]), &url);
        assert_eq!(keys(&read(&source, until_2020(device)).await), ROWS, "{server}");
        for given in [vec![], vec![("ca_file", other_file.clone())]] {
            let error = try_read(&open_with(&tables, options(given), &url), until_2020(device)).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains("certificate") && text.contains("iota.readings.ca_file"), "{server}: {text}");
            assert!(matches!(error, SourceError::Unknown(_)), "a wrong certificate stays wrong: {error:?}");
        }
        let unverified = |overrides: &mut Overrides| {
            overrides.set(&["iota", "readings", "verify_certificates"], false);
        };
        assert_eq!(keys(&read(&open_with(&tables, unverified, &url), until_2020(device)).await), ROWS, "{server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (Authority::new(), Authority::new());
    let ca = file(&folder, "own.pem", &own.pem()).display().to_string();
    let client = file(&folder, "client.pem", &own.client_pem()).display().to_string();
    let stranger = file(&folder, "stranger.pem", &other.client_pem()).display().to_string();
    for server in servers() {
        let (tables, index, device) = three_rows(&server).await;
        let proxy = ElasticProxy::start_tls(&server, &own, true, |_| Reply::Forward).await;
        let url = format!("{}/{}", proxy.url, index.name);
        let given =
            |certificate: &str| options(vec![("ca_file", ca.clone()), ("client_certificate_file", certificate.to_owned())]);
        assert_eq!(keys(&read(&open_with(&tables, given(&client), &url), until_2020(device)).await), ROWS, "{server}");
        for certificate in ["", &stranger] {
            let error = try_read(&open_with(&tables, given(certificate), &url), until_2020(device)).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains("iota.readings.client_certificate_file"), "{server}: {certificate:?}: {text}");
            assert!(matches!(error, SourceError::Unknown(_)), "a wrong certificate stays wrong: {error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_certificates_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let no_pem = file(&folder, "no.pem", "nothing").display().to_string();
    let Some(server) = servers().into_iter().next() else { return };
    let (tables, index, _) = three_rows(&server).await;
    for option in ["ca_file", "client_certificate_file"] {
        for path in [no_pem.as_str(), "/no/such/file.pem"] {
            let mut overrides = Overrides::default();
            tables.configure(&mut overrides);
            overrides.set(&["iota", "readings", "url"], index.url()).set(&["iota", "readings", option], path);
            let config = config::load(None, std::iter::empty(), overrides);
            let error = match config {
                Err(error) => error.to_string(),
                Ok(config) => {
                    data_patch::source::Source::new(&config.iota).err().expect("a source without certificates").to_string()
                }
            };
            assert!(error.contains(option) && error.contains(path), "{option}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_serves_where_the_first_one_does_not() {
    for server in servers() {
        let (tables, index, device) = three_rows(&server).await;
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let hangs = ElasticProxy::start(&server, |_| Reply::Hang).await;
        let answers = |status: u16| move |_: &Asked| Reply::Answer(status, "<html>no upstream</html>".to_owned());
        let bad_gateway = ElasticProxy::start(&server, answers(502)).await;
        let unavailable = ElasticProxy::start(&server, answers(503)).await;
        let cuts = ElasticProxy::start(&server, |_| Reply::Cut).await;
        let good = ElasticProxy::start(&server, |_| Reply::Forward).await;
        let firsts = [closed.as_str(), hangs.address(), bad_gateway.address(), unavailable.address(), cuts.address()];
        for (first, what) in firsts.into_iter().zip(["refuses", "hangs", "answers 502", "answers 503", "cuts answers"]) {
            let one_second = |overrides: &mut Overrides| {
                overrides.set(&["iota", "timeout_seconds"], 1);
            };
            let source = open_with(&tables, one_second, &format!("http://{first},{}/{}", good.address(), index.name));
            let started = Instant::now();
            assert_eq!(keys(&read(&source, until_2020(device)).await), ROWS, "{server}, {what}");
            // Once only is the node that hangs waited for.
            assert!(started.elapsed().as_secs() < 5, "{server}, {what}: {:?}", started.elapsed());
        }
        let source = open_with(&tables, |_| {}, &format!("http://{closed},{}/{}", bad_gateway.address(), index.name));
        let error = try_read(&source, until_2020(device)).await.unwrap_err();
        assert!(matches!(&error, SourceError::Unavailable(text) if text.contains("502")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_rights_is_told_which() {
    let body = json!({"error": {"root_cause": [], "type": "security_exception", "reason": "action [indices:admin/mappings/get] is unauthorized for user [reader]"}, "status": 403});
    for server in servers() {
        let (tables, index, device) = three_rows(&server).await;
        let text = body.to_string();
        let proxy = ElasticProxy::start(&server, move |asked| {
            if asked.path.contains("_mapping") { Reply::Answer(403, text.clone()) } else { Reply::Forward }
        })
        .await;
        let error = try_read(&open_with(&tables, |_| {}, &format!("{}/{}", proxy.url, index.name)), until_2020(device))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("view_index_metadata"), "{server}: {error}");
    }
}
