//! Takes the documents out of a page that is no JSON, because a document in it is none: some
//! versions accept a document with a comment, and return it as it was.

use std::ops::Range;

const SOURCE: &[u8] = b"\"_source\":";

/// Where the documents of a page are, and the page without them: each is `null`.
pub fn split(page: &[u8]) -> Option<(Vec<u8>, Vec<Range<usize>>)> {
    let mut without = Vec::with_capacity(page.len() / 2);
    let mut documents = Vec::new();
    let mut at = 0;
    // The text cannot occur in an id or in an index's name, where its quotes would be escaped, and
    // documents are skipped.
    while let Some(found) = find(page.get(at..)?, SOURCE) {
        let start = at + found + SOURCE.len();
        let end = start + object_length(page.get(start..)?)?;
        without.extend_from_slice(page.get(at..start)?);
        without.extend_from_slice(b"null");
        documents.push(start..end);
        at = end;
    }
    without.extend_from_slice(page.get(at..)?);
    Some((without, documents))
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

/// The length of the object that begins here, whatever is in it: braces count outside of strings
/// and comments.
fn object_length(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b'"' => at += string_length(text.get(at + 1..)?)?,
            b'/' if text.get(at + 1) == Some(&b'*') => at += 3 + find(text.get(at + 2..)?, b"*/")?,
            b'/' if text.get(at + 1) == Some(&b'/') => at += 1 + text.get(at + 2..)?.iter().position(|byte| *byte == b'\n')?,
            _ if depth == 0 => return None,
            _ => {}
        }
        at += 1;
    }
}

/// The length of a string after its first quote, with its last one.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documents_with_comments_are_found() {
        let documents = [
            r#"{"a":1}"#,
            r#"{"a":/* } " */{"b":"}"}}"#,
            "{\"a\":1 // }\n}",
            r#"{"\"_source\":":"\\"}"#,
            r#"{"a":NaN,"b":[{},{}]}"#,
        ];
        let hits: Vec<_> = documents.iter().map(|document| format!(r#"{{"_id":"x","_source":{document},"sort":[1]}}"#)).collect();
        let page = format!(r#"{{"hits":{{"hits":[{}]}}}}"#, hits.join(","));
        let (without, found) = split(page.as_bytes()).unwrap();
        assert_eq!(found.iter().map(|range| &page[range.clone()]).collect::<Vec<_>>(), documents);
        let read: serde_json::Value = serde_json::from_slice(&without).unwrap();
        assert_eq!(read["hits"]["hits"][4]["sort"][0], 1);
        assert!(read["hits"]["hits"][1]["_source"].is_null());
    }

    proptest! {
        #[test]
        fn nothing_panics(page in "(\"_source\":|[{}\\[\\]\"\\\\/*\n a])*") {
            let _ = split(page.as_bytes());
        }
    }
}
