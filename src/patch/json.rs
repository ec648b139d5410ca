//! JSON looked through in one pass: strict (RFC 8259), without a tree, and with so little recursion that nothing is too deep.
//!
//! `serde_json` took twice the time for it, which was a quarter of what this service does with a row; it stays the authority:
//! it words what is wrong, and tests and fuzzing hold this against it.

use std::{borrow::Cow, fmt};

use serde::de::IgnoredAny;

/// It is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson;

/// What sort of thing a JSON value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    Truth,
    Number,
    Text,
    List,
    Object,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Truth => "a truth value",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list",
            Self::Object => "an object",
        })
    }
}

/// A JSON text as it is written, without its quotes.
#[derive(Debug, Clone, Copy)]
pub struct Text<'d> {
    written: &'d str,
    has_escapes: bool,
}

impl<'d> Text<'d> {
    /// What it says. Half a surrogate pair says nothing: such a text stands for itself.
    #[inline]
    pub fn said(self) -> Cow<'d, str> {
        if self.has_escapes { self.unescaped() } else { Cow::Borrowed(self.written) }
    }

    /// Whether it says this.
    #[inline]
    pub fn says(self, what: &str) -> bool {
        if self.has_escapes { self.unescaped() == what } else { self.written == what }
    }

    #[cold]
    fn unescaped(self) -> Cow<'d, str> {
        let said = serde_json::from_str(&format!("\"{}\"", self.written)).ok();
        said.map_or(Cow::Borrowed(self.written), Cow::Owned)
    }
}

/// So many containers within each other are looked through by recursion; what is in more is left to `serde_json`, which takes
/// any number.
const DEPTH: u8 = 64;

/// A document, and how far it was looked through.
#[derive(Debug)]
pub struct Json<'d> {
    text: &'d str,
    at: usize,
}

impl<'d> Json<'d> {
    pub fn new(text: &'d str) -> Self {
        Self { text, at: 0 }
    }

    /// What sort of value begins here.
    pub fn kind(&mut self) -> Result<Kind, NotJson> {
        Ok(match self.token() {
            b'"' => Kind::Text,
            b'{' => Kind::Object,
            b'[' => Kind::List,
            b'-' | b'0'..=b'9' => Kind::Number,
            b't' | b'f' => Kind::Truth,
            b'n' => Kind::Null,
            _ => return Err(NotJson),
        })
    }

    /// Looks through a value.
    pub fn skip(&mut self) -> Result<Kind, NotJson> {
        self.value(DEPTH)
    }

    /// Looks through an object; `field` is told each name, and looks through its value.
    #[inline]
    pub fn object(&mut self, mut field: impl FnMut(Text<'d>, &mut Self) -> Result<(), NotJson>) -> Result<(), NotJson> {
        self.expect(b'{')?;
        if self.token() == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            let name = self.text()?;
            self.expect(b':')?;
            field(name, self)?;
            match self.token() {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(NotJson),
            }
        }
    }

    /// Looks through a text.
    #[expect(clippy::inline_always, reason = "a sixth of the time: most of a document are texts")]
    #[inline(always)]
    pub fn text(&mut self) -> Result<Text<'d>, NotJson> {
        self.expect(b'"')?;
        let start = self.at;
        let mut has_escapes = false;
        loop {
            self.at += plain(self.text.as_bytes().get(self.at..).ok_or(NotJson)?);
            match self.next() {
                b'"' => break,
                b'\\' => {
                    has_escapes = true;
                    self.escape()?;
                }
                _ => return Err(NotJson),
            }
        }
        let written = self.text.get(start..self.at).ok_or(NotJson)?;
        self.at += 1;
        Ok(Text { written, has_escapes })
    }

    /// Nothing follows.
    pub fn end(mut self) -> Result<(), NotJson> {
        self.token();
        if self.at == self.text.len() { Ok(()) } else { Err(NotJson) }
    }

    /// Looks through a value that may hold others, `deeper` levels of them.
    fn value(&mut self, deeper: u8) -> Result<Kind, NotJson> {
        match self.token() {
            b'"' => self.text().map(|_| Kind::Text),
            b'-' | b'0'..=b'9' => self.number().map(|()| Kind::Number),
            b'{' => {
                let Some(deeper) = deeper.checked_sub(1) else { return self.deep().map(|()| Kind::Object) };
                self.object(|_, json| json.value(deeper).map(|_| ())).map(|()| Kind::Object)
            }
            b'[' => {
                let Some(deeper) = deeper.checked_sub(1) else { return self.deep().map(|()| Kind::List) };
                self.list(deeper).map(|()| Kind::List)
            }
            b't' => self.word("true").map(|()| Kind::Truth),
            b'f' => self.word("false").map(|()| Kind::Truth),
            b'n' => self.word("null").map(|()| Kind::Null),
            _ => Err(NotJson),
        }
    }

    fn list(&mut self, deeper: u8) -> Result<(), NotJson> {
        self.expect(b'[')?;
        if self.token() == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(deeper)?;
            match self.token() {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(NotJson),
            }
        }
    }

    #[cold]
    fn deep(&mut self) -> Result<(), NotJson> {
        let rest = self.text.get(self.at..).ok_or(NotJson)?;
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        values.next().and_then(Result::ok).ok_or(NotJson)?;
        self.at += values.byte_offset();
        Ok(())
    }

    /// The next byte, not taken yet; 0, which JSON has nowhere, if there is none.
    fn next(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// The next byte that is not space, not taken yet.
    #[inline]
    fn token(&mut self) -> u8 {
        loop {
            let byte = self.next();
            if byte > b' ' || !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return byte;
            }
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.token() != byte {
            return Err(NotJson);
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), NotJson> {
        let is_there = self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word));
        self.at += word.len();
        if is_there { Ok(()) } else { Err(NotJson) }
    }

    fn number(&mut self) -> Result<(), NotJson> {
        if self.next() == b'-' {
            self.at += 1;
        }
        if self.next() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.next() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.next(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.next(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        while self.next().is_ascii_digit() {
            self.at += 1;
        }
        if self.at == start { Err(NotJson) } else { Ok(()) }
    }

    #[cold]
    fn escape(&mut self) -> Result<(), NotJson> {
        self.at += match *self.text.as_bytes().get(self.at..).unwrap_or_default() {
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [_, b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return Err(NotJson),
        };
        Ok(())
    }
}

/// How many bytes there are before the first that can't stand in a text for itself: quote, backslash or control character.
/// Eight are looked at together.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    /// The high bit of each byte below `limit`, an ASCII one; above the first such byte, of some others too.
    const fn below(word: u64, limit: u8) -> u64 {
        word.wrapping_sub(ONES * limit as u64) & !word & HIGH
    }
    const fn is(word: u64, byte: u8) -> u64 {
        below(word ^ (ONES * byte as u64), 1)
    }
    let (words, rest) = bytes.as_chunks::<8>();
    let mut plain = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let special = is(word, b'"') | is(word, b'\\') | below(word, b' ');
        if special != 0 {
            return plain + special.trailing_zeros() as usize / 8;
        }
        plain += 8;
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    plain + rest.iter().position(is_special).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_json(doc: &str) -> bool {
        let mut json = Json::new(doc);
        json.skip().is_ok() && json.end().is_ok()
    }

    fn is_json_to_serde(doc: &str) -> bool {
        serde_json::from_str::<IgnoredAny>(doc).is_ok()
    }

    #[test]
    fn the_grammar_is_serdes() {
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
            assert_eq!(is_json(doc), is_json_to_serde(doc), "{doc}");
        }
    }

    #[test]
    fn a_special_byte_is_found_wherever_it_stands() {
        for special in [b'"', b'\\', 0, 0x1f] {
            for place in 0..40 {
                let mut bytes = [0x80_u8, 0xff, b'!', b' ', b'#', b'[', b']', 0x7f].repeat(5);
                bytes[place] = special;
                assert_eq!(plain(&bytes), place);
            }
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_serde(doc in r#"([\[\]{}:,"\\ 01.eE+-]|"a"|:|true|null|\\u00e4|é){0,12}"#) {
            prop_assert_eq!(is_json(&doc), is_json_to_serde(&doc));
        }
    }
}
