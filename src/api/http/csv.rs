//! Tables as CSV (RFC 4180), with a header line.

use std::fmt::Display;

use warp::{
    Reply,
    http::{HeaderValue, header},
    reply::Response,
};

/// A table whose lines end with CRLF.
pub struct Csv {
    text: String,
}

impl Csv {
    pub fn new(columns: &[&str]) -> Self {
        Self { text: columns.join(",") + "\r\n" }
    }

    /// Adds a row. Fields that may hold any text are to be [`quoted`].
    pub fn row(&mut self, fields: &[&dyn Display]) {
        let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
        self.text += &fields.join(",");
        self.text += "\r\n";
    }

    pub fn response(self) -> Response {
        let mut response = self.text.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
        response
    }
}

/// Any text as a field.
pub fn quoted(text: &str) -> String {
    // A spreadsheet would run a text that begins like a formula.
    let guard = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

/// A field that may be empty.
pub fn optional<T: ToString>(field: Option<T>) -> String {
    field.map(|field| field.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_what_needs_it() {
        let mut csv = Csv::new(&["key", "reason"]);
        csv.row(&[&quoted("=1+1"), &quoted("no \"data\", none")]);
        assert_eq!(csv.text, "key,reason\r\n\"'=1+1\",\"no \"\"data\"\", none\"\r\n");
    }
}
