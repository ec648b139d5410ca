//! Finds the token in a message that has not arrived completely, so that a large message is
//! accepted if its token is right.
//!
//! This is a best-effort scan: the complete message is parsed, and its token checked, again.

/// A longer token is not found.
const MAX_TOKEN_BYTES: usize = 1_024;

/// Searches for the field `token` of a JSON object in text that arrives in chunks.
#[derive(Debug, Default)]
pub struct EarlyToken {
    depth: u32,
    string: Option<JsonString>,
    /// Whether the last tokens at depth 1 were `"token"` and a colon.
    after: After,
    /// The token was found, or cannot be.
    done: bool,
}

#[derive(Debug, Default)]
struct JsonString {
    /// The text as written, without the quotes. Only stored at depth 1, and up to the maximum
    /// length.
    raw: Vec<u8>,
    is_escaped: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum After {
    #[default]
    Other,
    TokenName,
    TokenColon,
}

impl EarlyToken {
    /// Adds the next bytes; returns the token once it is complete.
    pub fn feed(&mut self, bytes: impl Iterator<Item = u8>) -> Option<String> {
        if self.done {
            return None;
        }
        for byte in bytes {
            let Some(string) = &mut self.string else {
                self.push_outside_string(byte);
                continue;
            };
            if string.push(byte, self.depth == 1)
                && let Some(string) = self.string.take()
                && self.depth == 1
                && let Some(token) = self.string_ended(&string.raw)
            {
                self.done = true;
                return Some(token);
            }
        }
        None
    }

    fn push_outside_string(&mut self, byte: u8) {
        match byte {
            b'"' => self.string = Some(JsonString::default()),
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.after = After::Other;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.after = After::Other;
            }
            b':' if self.after == After::TokenName => self.after = After::TokenColon,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => self.after = After::Other,
        }
    }

    fn string_ended(&mut self, raw: &[u8]) -> Option<String> {
        if std::mem::take(&mut self.after) == After::TokenColon {
            let quoted = [b"\"", raw, b"\""].concat();
            return serde_json::from_slice(&quoted).ok();
        }
        if raw == b"token" {
            self.after = After::TokenName;
        }
        None
    }
}

impl JsonString {
    /// Adds a byte; returns true if it ends the string.
    fn push(&mut self, byte: u8, keep: bool) -> bool {
        if !self.is_escaped && byte == b'"' {
            return true;
        }
        self.is_escaped = !self.is_escaped && byte == b'\\';
        if keep && self.raw.len() < MAX_TOKEN_BYTES {
            self.raw.push(byte);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn find(text: &str) -> Option<String> {
        EarlyToken::default().feed(text.bytes())
    }

    #[test]
    fn the_objects_own_token_is_found_before_the_rest_arrives() {
        for text in [
            r#"{"src":"iota","token":"123456","devices":["#,
            r#"{"devices":["token","x"],"from":"token", "token" : "123456","#,
            r#"{"a":{"token":"no"},"b":[{"token":"no"}],"token":"123456""#,
            r#"{"quote\"d\\":"\\","token":"1234\u00356","#,
        ] {
            assert_eq!(find(text).as_deref(), Some("123456"), "{text}");
        }
        for text in [
            r#"{"token":"12345"#,
            r#"{"token":123456,"devices":["123456"]"#,
            r#"["token","123456""#,
            r#"{"x":"token","123456":1"#,
            r#"{"a":{"token":"123456"},"#,
            "",
        ] {
            assert_eq!(find(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_the_whole_message_has(
            token in "\\PC{0,20}", before in proptest::collection::btree_map("[a-s\"\\\\{}:]{0,5}", "\\PC{0,20}", 0..4), size in 1_usize..9
        ) {
            let mut message = json!({ "nested": [{ "token": "no" }], "token": token });
            message.as_object_mut().unwrap().extend(before.into_iter().map(|(name, text)| (name, Value::from(text))));
            let text = message.to_string();
            let mut early = EarlyToken::default();
            let found = text.as_bytes().chunks(size).find_map(|piece| early.feed(piece.iter().copied()));
            prop_assert_eq!(found, Some(token));
        }
    }
}
