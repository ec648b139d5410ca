//! The page's files, as browsers and proxies ask for them. `tests/page` has the tests of the page
//! itself, in a browser.

use std::collections::BTreeMap;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{TestApp, TestSource, call};

/// The most that a first visit may load.
const MAX_BYTES: usize = 150 * 1_024;

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

async fn ask(app: &TestApp, method: &str, path: &str, headers: &[&str]) -> Answer {
    let mut stream = TcpStream::connect(&app.http).await.unwrap();
    let mut lines = vec![format!("{method} {path} HTTP/1.1"), "host: test".to_owned(), "connection: close".to_owned()];
    lines.extend(headers.iter().map(|line| (*line).to_owned()));
    stream.write_all(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let fields = head.lines().skip(1).map(|line| line.split_once(": ").unwrap());
    let headers = fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    Answer { status: head[9..12].parse().unwrap(), headers, body: bytes[end + 4..].to_vec() }
}

fn decompressed(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    brotli::BrotliDecompress(&mut &bytes[..], &mut plain).unwrap();
    plain
}

/// The paths of the files that the index names.
fn linked(index: &str) -> Vec<String> {
    let links = index.split('"').filter(|text| text.starts_with("assets/"));
    links.map(|link| format!("/data-patch/{link}")).collect()
}

#[tokio::test]
async fn each_file_is_served_plain_and_compressed_and_all_are_small() {
    let app = TestApp::start(TestSource::empty().await).await;
    let index = ask(&app, "GET", "/data-patch/", &[]).await;
    assert_eq!((index.status, index.headers["cache-control"].as_str()), (200, "no-cache"));
    let text = String::from_utf8(index.body).unwrap();
    assert!(!text.contains("{{"), "{text}");
    let mut paths = linked(&text);
    assert!(paths.len() > 20, "{paths:?}");
    paths.push("/data-patch/".to_owned());
    let mut total = 0;
    for path in &paths {
        let plain = ask(&app, "GET", path, &[]).await;
        let compressed = ask(&app, "GET", path, &["accept-encoding: gzip, br"]).await;
        assert_eq!((plain.status, compressed.status), (200, 200), "{path}");
        assert_eq!((plain.headers.get("content-encoding"), compressed.headers["content-encoding"].as_str()), (None, "br"));
        assert_eq!(decompressed(&compressed.body), plain.body, "{path}");
        assert_ne!(plain.headers["etag"], compressed.headers["etag"], "{path}");
        for answer in [&plain, &compressed] {
            let headers = &answer.headers;
            assert_eq!(headers["content-length"], answer.body.len().to_string(), "{path}");
            assert!(headers["etag"].starts_with('"') && headers["vary"] == "accept-encoding", "{path}");
            assert!(headers["content-security-policy"].starts_with("default-src 'self'; "), "{path}");
            assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        }
        if path.contains("assets") {
            assert!(plain.headers["cache-control"].contains("immutable"), "{path}");
        }
        total += compressed.body.len();
    }
    assert!(total < MAX_BYTES, "the page has {total} bytes");
    app.stop().await;
}

#[tokio::test]
async fn a_file_that_a_browser_has_is_not_sent_again() {
    let app = TestApp::start(TestSource::empty().await).await;
    let first = ask(&app, "GET", "/data-patch/", &["accept-encoding: br"]).await;
    let etag = &first.headers["etag"];
    for known in [format!("if-none-match: {etag}"), format!("if-none-match: \"x\", W/{etag}"), "if-none-match: *".to_owned()] {
        let answer = ask(&app, "GET", "/data-patch/", &["accept-encoding: br", &known]).await;
        assert_eq!((answer.status, answer.body.len(), &answer.headers["etag"]), (304, 0, etag), "{known}");
        assert!(answer.headers.contains_key("content-security-policy") && !answer.headers.contains_key("content-type"));
    }
    let other = ask(&app, "GET", "/data-patch/", &[&format!("if-none-match: {etag}")]).await;
    assert_eq!(other.status, 200, "the plain file is another representation");
    app.stop().await;
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let app = TestApp::start(TestSource::empty().await).await;
    let get = ask(&app, "GET", "/data-patch/", &[]).await;
    let head = ask(&app, "HEAD", "/data-patch/", &[]).await;
    assert_eq!((head.status, head.body.len(), &head.headers["content-length"]), (200, 0, &get.headers["content-length"]));
    assert_eq!(head.headers["etag"], get.headers["etag"]);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let answer = ask(&app, method, "/data-patch/", &[]).await;
        assert_eq!((answer.status, answer.headers["allow"].as_str()), (405, "GET, HEAD"), "{method}");
    }
    let moved = ask(&app, "GET", "/data-patch", &[]).await;
    assert_eq!((moved.status, moved.headers["location"].as_str()), (308, "/data-patch/"));
    let script = linked(&String::from_utf8(get.body).unwrap()).into_iter().find(|path| path.ends_with("/main.js")).unwrap();
    let other_version = script.replace(script.split('/').nth(3).unwrap(), "0123456789abcdef");
    for path in [&other_version, "/data-patch/assets/", "/data-patch/assets/..%2fCargo.toml"] {
        let answer = ask(&app, "GET", path, &[]).await;
        assert_eq!((answer.status, answer.headers["cache-control"].as_str()), (404, "no-store"), "{path}");
    }
    app.stop().await;
}

// With a list of origins, the page that the service itself serves must not be shut out.
#[tokio::test]
async fn the_page_may_use_the_api_although_only_others_are_listed() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["server", "allowed_origins"], vec!["https://et.example.com"]);
    })
    .await;
    for (origin, expected) in [
        ("http://test", 200),
        ("https://TEST", 200),
        ("https://et.example.com", 200),
        ("http://test.evil.example", 403),
        ("http://evil.example", 403),
        ("null", 403),
    ] {
        let answer = call(&app.http, "GET", "/service", &[&format!("origin: {origin}")], "").await;
        assert_eq!(answer.status, expected, "{origin}");
    }
    app.stop().await;
}
