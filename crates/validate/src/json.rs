//! Checks JSON in one pass: strict (RFC 8259), without building a tree, and with bounded recursion
//! at any depth.
//!
//! `serde_json` took twice as long for this, which was a quarter of the CPU time per row. It
//! remains the reference: it formulates the error messages, and tests and fuzzing compare every
//! verdict with its verdict.

use std::{borrow::Cow, fmt};

use serde::de::IgnoredAny;
use wide::u8x16;

/// The document is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson;

/// The type of a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonType {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl fmt::Display for JsonType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}

/// A JSON string as it is written, without its quotes.
#[derive(Debug, Clone, Copy)]
pub struct JsonString<'d> {
    /// A slice of a UTF-8 document between two quotes, so it is valid UTF-8 too.
    raw: &'d [u8],
    has_escapes: bool,
}

impl<'d> JsonString<'d> {
    /// The string without escapes. A string with an unpaired surrogate is returned as it is
    /// written.
    pub fn unescaped(self) -> Cow<'d, str> {
        let raw = str::from_utf8(self.raw).unwrap_or_default();
        let unescaped = || serde_json::from_str(&format!("\"{raw}\"")).ok();
        self.has_escapes.then(unescaped).flatten().map_or(Cow::Borrowed(raw), Cow::Owned)
    }

    /// Whether the unescaped string equals `expected`.
    #[inline]
    pub fn eq_str(self, expected: &str) -> bool {
        if self.has_escapes { self.unescaped() == expected } else { self.raw == expected.as_bytes() }
    }
}

/// Containers nested deeper than this are checked by `serde_json`, which skips values at any depth,
/// instead of by recursion.
const MAX_DEPTH: u8 = 64;

/// A document. Each method takes the offset at which something begins and returns the offset after
/// it. Offsets stay in registers; a cursor behind a reference would be stored and loaded for each
/// byte.
#[derive(Debug, Clone, Copy)]
pub struct JsonScanner<'d> {
    doc: &'d [u8],
}

impl<'d> JsonScanner<'d> {
    pub fn new(doc: &'d str) -> Self {
        Self { doc: doc.as_bytes() }
    }

    /// The offset of the document's value.
    pub fn begin(self) -> usize {
        self.skip_whitespace(0)
    }

    /// Checks that only whitespace follows.
    pub fn end(self, at: usize) -> Result<(), NotJson> {
        if self.skip_whitespace(at) == self.doc.len() { Ok(()) } else { Err(NotJson) }
    }

    /// The type of the value at `at`.
    pub fn kind(self, at: usize) -> Result<JsonType, NotJson> {
        Ok(match self.byte(at) {
            b'"' => JsonType::String,
            b'{' => JsonType::Object,
            b'[' => JsonType::Array,
            b'-' | b'0'..=b'9' => JsonType::Number,
            b't' | b'f' => JsonType::Bool,
            b'n' => JsonType::Null,
            _ => return Err(NotJson),
        })
    }

    /// Checks a value and skips it.
    #[inline]
    pub fn skip(self, at: usize) -> Result<usize, NotJson> {
        self.value(at, MAX_DEPTH)
    }

    /// Checks an object. `field` is called with each name and the offset of its value, and returns
    /// the offset after the value.
    #[inline]
    pub fn object(
        self,
        at: usize,
        mut field: impl FnMut(JsonString<'d>, usize) -> Result<usize, NotJson>,
    ) -> Result<usize, NotJson> {
        let mut at = self.first(at, b'{', b'}')?;
        while let Next::Item(item) = at {
            let (name, end) = self.string(item)?;
            let end = field(name, self.colon(end)?)?;
            at = match self.peek4(end) {
                [b',', b' ', b'"', _] => Next::Item(end + 2),
                [b',', b'"', ..] => Next::Item(end + 1),
                _ => self.next(end, b'}')?,
            };
        }
        Ok(at.offset())
    }

    /// Checks a string and returns it.
    #[expect(clippy::inline_always, reason = "saves a sixth of the time: documents consist mostly of strings")]
    #[inline(always)]
    pub fn string(self, at: usize) -> Result<(JsonString<'d>, usize), NotJson> {
        let start = self.expect(at, b'"')?;
        let mut at = start;
        let mut has_escapes = false;
        loop {
            at = self.skip_plain_chars(at);
            match self.byte(at) {
                b'"' => break,
                b'\\' => {
                    has_escapes = true;
                    at = self.escape(at)?;
                }
                _ => return Err(NotJson),
            }
        }
        let raw = self.doc.get(start..at).ok_or(NotJson)?;
        Ok((JsonString { raw, has_escapes }, at + 1))
    }

    /// Checks a value that may have `levels` more levels of containers.
    #[inline]
    fn value(self, at: usize, levels: u8) -> Result<usize, NotJson> {
        if self.byte(at) == b'"' { self.string(at).map(|(_, end)| end) } else { self.non_string(at, levels) }
    }

    fn non_string(self, at: usize, levels: u8) -> Result<usize, NotJson> {
        match self.byte(at) {
            b'-' | b'0'..=b'9' => self.number(at),
            b'{' | b'[' => match levels.checked_sub(1) {
                None => self.skip_deep(at),
                Some(levels) if self.byte(at) == b'{' => self.object(at, |_, at| self.value(at, levels)),
                Some(levels) => self.array(at, levels),
            },
            b't' => self.literal(at, "true"),
            b'f' => self.literal(at, "false"),
            b'n' => self.literal(at, "null"),
            _ => Err(NotJson),
        }
    }

    fn array(self, at: usize, levels: u8) -> Result<usize, NotJson> {
        let mut at = self.first(at, b'[', b']')?;
        while let Next::Item(item) = at {
            at = self.next(self.value(item, levels)?, b']')?;
        }
        Ok(at.offset())
    }

    #[cold]
    fn skip_deep(self, at: usize) -> Result<usize, NotJson> {
        let rest = self.doc.get(at..).ok_or(NotJson)?;
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        values.next().and_then(Result::ok).ok_or(NotJson)?;
        Ok(at + values.byte_offset())
    }

    /// The first item of the container at `at`.
    fn first(self, at: usize, open: u8, close: u8) -> Result<Next, NotJson> {
        let at = self.skip_whitespace(self.expect(at, open)?);
        Ok(if self.byte(at) == close { Next::End(at + 1) } else { Next::Item(at) })
    }

    /// The item or end after an item.
    fn next(self, at: usize, close: u8) -> Result<Next, NotJson> {
        let at = self.skip_whitespace(at);
        match self.byte(at) {
            b',' => Ok(Next::Item(self.skip_whitespace(at + 1))),
            byte if byte == close => Ok(Next::End(at + 1)),
            _ => Err(NotJson),
        }
    }

    /// The offset of the value after a name. The two fast cases are the formats of PostgreSQL and
    /// of compact JSON.
    #[inline]
    fn colon(self, at: usize) -> Result<usize, NotJson> {
        match self.peek4(at) {
            [b':', b' ', b'!'..=255, _] => Ok(at + 2),
            [b':', b'!'..=255, ..] => Ok(at + 1),
            _ => Ok(self.skip_whitespace(self.expect(self.skip_whitespace(at), b':')?)),
        }
    }

    fn number(self, mut at: usize) -> Result<usize, NotJson> {
        if self.byte(at) == b'-' {
            at += 1;
        }
        at = if self.byte(at) == b'0' { at + 1 } else { self.digits(at)? };
        if self.byte(at) == b'.' {
            at = self.digits(at + 1)?;
        }
        if matches!(self.byte(at), b'e' | b'E') {
            at += 1;
            if matches!(self.byte(at), b'+' | b'-') {
                at += 1;
            }
            at = self.digits(at)?;
        }
        Ok(at)
    }

    fn digits(self, start: usize) -> Result<usize, NotJson> {
        let mut at = start;
        while self.byte(at).is_ascii_digit() {
            at += 1;
        }
        if at == start { Err(NotJson) } else { Ok(at) }
    }

    fn literal(self, at: usize, word: &str) -> Result<usize, NotJson> {
        let is_there = self.doc.get(at..).is_some_and(|rest| rest.starts_with(word.as_bytes()));
        if is_there { Ok(at + word.len()) } else { Err(NotJson) }
    }

    #[cold]
    fn escape(self, at: usize) -> Result<usize, NotJson> {
        Ok(match *self.doc.get(at..).unwrap_or_default() {
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => at + 2,
            [_, b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(u8::is_ascii_hexdigit) => at + 6,
            _ => return Err(NotJson),
        })
    }

    fn expect(self, at: usize, byte: u8) -> Result<usize, NotJson> {
        if self.byte(at) == byte { Ok(at + 1) } else { Err(NotJson) }
    }

    /// The byte at `at`, or 0, which occurs nowhere in JSON, at the end of the document.
    #[inline]
    fn byte(self, at: usize) -> u8 {
        self.doc.get(at).copied().unwrap_or(0)
    }

    /// The next four bytes, or zeros if the document has fewer left.
    #[inline]
    fn peek4(self, at: usize) -> [u8; 4] {
        self.doc.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
    }

    /// The offset of the next byte that is not whitespace.
    #[inline]
    fn skip_whitespace(self, mut at: usize) -> usize {
        while matches!(self.byte(at), b' ' | b'\n' | b'\t' | b'\r') {
            at += 1;
        }
        at
    }

    /// The offset of the next byte that cannot stand for itself in a string: a quote, a backslash
    /// or a control character. Compares sixteen bytes at a time.
    #[inline]
    fn skip_plain_chars(self, mut at: usize) -> usize {
        while let Some(chunk) = self.doc.get(at..).and_then(|rest| rest.first_chunk()) {
            let chunk = u8x16::new(*chunk);
            let is = |byte| chunk.simd_eq(u8x16::splat(byte));
            let is_control = chunk.min(u8x16::splat(b' ' - 1)).simd_eq(chunk);
            let special = (is(b'"') | is(b'\\') | is_control).to_bitmask();
            if special != 0 {
                return at + special.trailing_zeros() as usize;
            }
            at += 16;
        }
        while !matches!(self.byte(at), b'"' | b'\\' | ..b' ') {
            at += 1;
        }
        at
    }
}

/// What comes next in a container, with its offset.
enum Next {
    Item(usize),
    /// The end of the container; the offset is behind it.
    End(usize),
}

impl Next {
    fn offset(self) -> usize {
        match self {
            Self::Item(at) | Self::End(at) => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_json(doc: &str) -> bool {
        let json = JsonScanner::new(doc);
        json.skip(json.begin()).and_then(|end| json.end(end)).is_ok()
    }

    fn is_json_for_serde(doc: &str) -> bool {
        serde_json::from_str::<IgnoredAny>(doc).is_ok()
    }

    #[test]
    fn the_grammar_agrees_with_serde_json() {
        for doc in [
            "0",
            "-0",
            "01",
            "1.",
            ".1",
            "1.5e",
            "1e+5",
            "-",
            "1e999",
            "\"\\u12g4\"",
            "\"\\ud800\"",
            "\"\\x\"",
            "\"\u{1f}\"",
            "\"\u{7f}é\"",
            "\"",
            "[",
            "[]",
            "[,]",
            "[1,]",
            "[1 2]",
            "{}",
            "{,}",
            "{\"a\"}",
            "{\"a\":1,}",
            "{1:2}",
            "{\"a\":1]",
            "[}",
            "true",
            "tru",
            "truex",
            "nulL",
            " \t\r\n1 ",
            "\u{b}1",
            "1 1",
            "",
            "[[],{},[{}]]",
            "{\"a\":{\"b\":[{\"c\":[]}]}}",
        ] {
            assert_eq!(is_json(doc), is_json_for_serde(doc), "{doc}");
        }
    }

    #[test]
    fn a_special_byte_is_found_at_any_offset() {
        for special in [b'"', b'\\', 0, 0x1f] {
            for offset in 0..40 {
                let mut doc = [0x80_u8, 0xff, b'!', b' ', b'#', b'[', b']', 0x7f].repeat(5);
                doc[offset] = special;
                assert_eq!(JsonScanner { doc: &doc }.skip_plain_chars(0), offset);
            }
        }
    }

    proptest! {
        #[test]
        fn random_documents_agree_with_serde_json(doc in r#"([\[\]{}:,"\\ 01.eE+-]|"a"|:|\{"a": ?1|, ?"b": ?|"sixteen bytes, and more"|true|null|\\u00e4|é){0,12}"#) {
            prop_assert_eq!(is_json(&doc), is_json_for_serde(&doc));
        }
    }
}
