//! The page at `/data-patch/`: static files that are compiled in. It uses the HTTP API like any
//! other client. `docs/page.md` describes it, and `build.rs` prepares its files.

use warp::{
    Reply,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    reply::Response,
};

/// A file of the page.
struct File {
    /// Its path below `assets/page`.
    name: &'static str,
    media_type: &'static str,
    /// The hash of its content.
    hash: &'static str,
    plain: &'static [u8],
    brotli: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// The path of the page.
pub const PATH: &str = "/data-patch/";
/// The path of its files, which goes on with [`BUILD`].
const ASSETS: &str = "assets/";
const INDEX: &str = "index.html";

/// A value of `Cache-Control`.
type CachePolicy = &'static str;

const METHODS: &str = "GET, HEAD";
/// Browsers ask whether there is another version.
const REVALIDATE: CachePolicy = "no-cache";
/// Another version of the file has another path.
const FOREVER: CachePolicy = "public, max-age=31536000, immutable";

/// On everything below [`PATH`]. The page loads nothing from elsewhere, and is in no frame.
const SECURITY: [(&str, &str); 5] = [
    ("content-security-policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// What a path of the page means.
enum Target {
    /// The path without its slash.
    Redirect,
    File(&'static File, CachePolicy),
    /// A file of another version, or none at all.
    Missing,
}

/// How the content is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Brotli,
}

/// Answers a request for the page or one of its files; `None` if the path is neither.
pub fn respond(method: &Method, path: &str, headers: &HeaderMap) -> Option<Response> {
    let target = target(path)?;
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "the page has GET and HEAD only\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
        return Some(response);
    }
    Some(match target {
        Target::Redirect => {
            let mut response = text(StatusCode::PERMANENT_REDIRECT, "");
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(PATH));
            response
        }
        Target::Missing => text(StatusCode::NOT_FOUND, "no such file in this version; load the page again\n"),
        Target::File(file, cache) => file.respond(headers, cache),
    })
}

fn target(path: &str) -> Option<Target> {
    let Some(below) = path.strip_prefix(PATH) else {
        return (path == PATH.trim_end_matches('/')).then_some(Target::Redirect);
    };
    let (wanted, cache) = if below.is_empty() {
        (INDEX, REVALIDATE)
    } else {
        let (build, name) = below.strip_prefix(ASSETS)?.split_once('/').unwrap_or_default();
        // The index is at the path of the page only.
        (if build == BUILD && name != INDEX { name } else { "" }, FOREVER)
    };
    let file = FILES.iter().find(|file| file.name == wanted);
    Some(file.map_or(Target::Missing, |file| Target::File(file, cache)))
}

impl File {
    fn respond(&self, headers: &HeaderMap, cache: CachePolicy) -> Response {
        let encoding = accepted(&joined(headers, &header::ACCEPT_ENCODING));
        let (content, suffix) = match encoding {
            Encoding::Identity => (self.plain, ""),
            Encoding::Brotli => (self.brotli, "-br"),
        };
        // Strong: each encoding has its own (RFC 9110, section 8.8.3).
        let etag = format!("\"{}{suffix}\"", self.hash);
        let is_known = matches(&joined(headers, &header::IF_NONE_MATCH), &etag);
        let body: &'static [u8] = if is_known { &[] } else { content };
        let mut response = body.into_response();
        let answer = response.headers_mut();
        if is_known {
            answer.remove(header::CONTENT_TYPE);
        } else {
            answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media_type));
            answer.insert(header::CONTENT_LENGTH, HeaderValue::from(content.len()));
            if encoding == Encoding::Brotli {
                answer.insert(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
            }
        }
        answer.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
        answer.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        // The hash is hexadecimal.
        if let Ok(etag) = HeaderValue::try_from(etag) {
            answer.insert(header::ETAG, etag);
        }
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        secured(response)
    }
}

fn text(status: StatusCode, text: &'static str) -> Response {
    let mut response = warp::reply::with_status(text, status).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    secured(response)
}

fn secured(mut response: Response) -> Response {
    for (name, value) in SECURITY {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// The values of a header that is a list.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",")
}

/// The encoding that a client prefers (RFC 9110, section 12.5.3); Brotli where both are welcome.
fn accepted(list: &str) -> Encoding {
    let (mut brotli, mut identity, mut any) = (None, None, None);
    for item in list.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(Some(1.0), |weight| weight.trim().parse::<f32>().ok()).unwrap_or(0.0);
        match coding.as_str() {
            "br" => brotli = Some(weight),
            "identity" => identity = Some(weight),
            "*" => any = Some(weight),
            _ => {}
        }
    }
    let brotli = brotli.or(any).unwrap_or(0.0);
    if brotli > 0.0 && brotli >= identity.unwrap_or(0.0) { Encoding::Brotli } else { Encoding::Identity }
}

/// Whether `If-None-Match` names the entity (RFC 9110, section 13.1.2: compared weakly).
fn matches(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_the_preferred_one() {
        for (list, expected) in [
            ("gzip, deflate, br, zstd", Encoding::Brotli),
            ("br;q=0.5, gzip", Encoding::Brotli),
            ("BR", Encoding::Brotli),
            ("*", Encoding::Brotli),
            ("identity;q=0, *", Encoding::Brotli),
            ("", Encoding::Identity),
            ("gzip", Encoding::Identity),
            ("br;q=0", Encoding::Identity),
            ("br;q=x", Encoding::Identity),
            ("*;q=0", Encoding::Identity),
            ("br;q=0.2, identity", Encoding::Identity),
            ("brotli", Encoding::Identity),
        ] {
            assert_eq!(accepted(list), expected, "{list:?}");
        }
    }

    #[test]
    fn only_paths_of_the_page_are_answered() {
        let meaning = |path: &str| match target(path) {
            Some(Target::File(file, cache)) => Some((file.name, cache)),
            Some(Target::Redirect) => Some(("redirect", "")),
            Some(Target::Missing) => Some(("missing", "")),
            None => None,
        };
        assert_eq!(meaning("/data-patch"), Some(("redirect", "")));
        assert_eq!(meaning("/data-patch/"), Some((INDEX, REVALIDATE)));
        assert_eq!(meaning(&format!("/data-patch/assets/{BUILD}/main.js")), Some(("main.js", FOREVER)));
        for missing in ["", "0/main.js", &format!("{BUILD}/index.html"), &format!("{BUILD}/"), &format!("{BUILD}/../main.js")] {
            assert_eq!(meaning(&format!("/data-patch/assets/{missing}")), Some(("missing", "")), "{missing}");
        }
        for other in ["/", "/healthz", "/data-patch/openapi.json", "/data-patch/websocket", "/data-patchy"] {
            assert_eq!(meaning(other), None, "{other}");
        }
    }

    #[test]
    fn an_entity_is_known_by_any_tag_of_the_list() {
        assert!(
            matches("\"a\", W/\"b\"", "\"b\"") && matches("*", "\"b\"") && !matches("\"b-br\"", "\"b\"") && !matches("", "\"b\"")
        );
    }
}
