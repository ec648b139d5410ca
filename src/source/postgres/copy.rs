//! PostgreSQL's binary COPY format (PostgreSQL's documentation, "COPY", section "Binary Format"): a
//! document is passed to Kafka in the buffer that it was received in.

use bytes::{Buf, Bytes, BytesMut};
use uuid::Uuid;

use crate::{
    source::{DocType, KeyType, Row, SourceError, TimeType},
    task::{Position, RowKey},
};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// PostgreSQL's epoch, 2000-01-01, in microseconds since 1970.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
/// The first byte of a binary `jsonb` value.
const JSONB_VERSION: u8 = 1;

/// Decodes rows of time, key and document from the chunks of the stream, wherever they are split.
pub struct Decoder {
    key: KeyType,
    time: TimeType,
    doc: DocType,
    /// Each row has an ordinal before its time.
    has_ordinal: bool,
    ordinal: i32,
    has_header: bool,
    is_complete: bool,
    buffer: Bytes,
}

impl Decoder {
    /// Creates a decoder for columns of these types.
    pub fn new(key: KeyType, time: TimeType, doc: DocType) -> Self {
        Self { key, time, doc, has_ordinal: false, ordinal: 0, has_header: false, is_complete: false, buffer: Bytes::new() }
    }

    /// Expects an ordinal before these columns in each row.
    #[must_use]
    pub fn with_ordinal(self) -> Self {
        Self { has_ordinal: true, ..self }
    }

    /// The ordinal of the last row.
    pub fn ordinal(&self) -> i32 {
        self.ordinal
    }

    /// Adds the next chunk of the stream.
    pub fn push(&mut self, chunk: Bytes) {
        if self.buffer.is_empty() {
            // PostgreSQL splits its messages between rows, so this is the usual case, and copies
            // nothing.
            self.buffer = chunk;
            return;
        }
        let mut joined = BytesMut::with_capacity(self.buffer.len() + chunk.len());
        joined.extend_from_slice(&self.buffer);
        joined.extend_from_slice(&chunk);
        self.buffer = joined.freeze();
    }

    /// Returns the next row, if it has arrived completely.
    ///
    /// # Errors
    /// The stream is malformed.
    pub fn row(&mut self) -> Result<Option<Row>, SourceError> {
        if !self.has_header {
            let Some(buffer) = header(&self.buffer)? else { return Ok(None) };
            self.buffer = buffer;
            self.has_header = true;
        }
        // Fields are borrowed; only the document keeps a reference to the buffer.
        let mut at = self.buffer.as_ref();
        let Ok(fields) = at.try_get_i16() else { return Ok(None) };
        if fields == -1 {
            self.is_complete = true;
            return Ok(None);
        }
        let mut ordinal = self.ordinal;
        if self.has_ordinal {
            let Some(field) = field(&mut at)? else { return Ok(None) };
            ordinal = field.and_then(|mut field| field.try_get_i32().ok()).ok_or_else(|| malformed("a row's ordinal"))?;
        }
        let Some(time) = field(&mut at)? else { return Ok(None) };
        let Some(key) = field(&mut at)? else { return Ok(None) };
        let Some(doc) = field(&mut at)? else { return Ok(None) };
        let doc = self.doc(doc)?.map(|doc| self.buffer.slice_ref(doc));
        let row = Row { position: Position { time_us: self.time(time)?, key: self.key(key)? }, doc };
        let consumed = self.buffer.len() - at.len();
        self.buffer.advance(consumed);
        self.ordinal = ordinal;
        Ok(Some(row))
    }

    /// Whether the end of the stream was received; without it, rows may be missing.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    fn time(&self, field: Option<&[u8]>) -> Result<i64, SourceError> {
        let stored = field.and_then(|mut field| field.try_get_i64().ok()).ok_or_else(|| malformed("a time"))?;
        Ok(match self.time {
            TimeType::Instant | TimeType::Local(_) => stored.saturating_add(POSTGRES_EPOCH_US),
            TimeType::EpochMillis => stored.saturating_mul(1_000),
        })
    }

    fn key(&self, field: Option<&[u8]>) -> Result<RowKey, SourceError> {
        let field = field.ok_or_else(|| SourceError::Rejected("a row has no key (iota.raw.id is NULL)".to_owned()))?;
        let key = match self.key {
            KeyType::Integer => field.try_into().ok().map(|bytes| RowKey::Integer(i64::from_be_bytes(bytes))),
            KeyType::Uuid => Uuid::from_slice(field).ok().map(RowKey::Uuid),
            KeyType::Text => std::str::from_utf8(field).ok().map(RowKey::from),
        };
        key.ok_or_else(|| malformed("a row key"))
    }

    fn doc<'f>(&self, field: Option<&'f [u8]>) -> Result<Option<&'f [u8]>, SourceError> {
        match (self.doc, field) {
            (DocType::Jsonb, Some(field)) => match field {
                [JSONB_VERSION, doc @ ..] => Ok(Some(doc)),
                _ => Err(malformed("a jsonb document")),
            },
            (_, field) => Ok(field),
        }
    }
}

fn malformed(what: &str) -> SourceError {
    SourceError::Rejected(format!("{what} is not in PostgreSQL's binary format"))
}

/// Returns the bytes after the header, once it has arrived.
fn header(bytes: &Bytes) -> Result<Option<Bytes>, SourceError> {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes.get(..seen) != SIGNATURE.get(..seen) {
        return Err(malformed("the stream's beginning"));
    }
    let mut at = bytes.clone();
    if at.len() < SIGNATURE.len() + 8 {
        return Ok(None);
    }
    // The signature, and flags that are not used here.
    at.advance(SIGNATURE.len() + 4);
    let Ok(extension) = at.try_get_i32() else { return Ok(None) };
    let extension = usize::try_from(extension).map_err(|_| malformed("the stream's beginning"))?;
    if at.len() < extension {
        return Ok(None);
    }
    at.advance(extension);
    Ok(Some(at))
}

/// Returns a field, where `Some(None)` is NULL; `None` if it has not arrived completely.
#[expect(clippy::option_option, reason = "incomplete and NULL are different")]
fn field<'f>(at: &mut &'f [u8]) -> Result<Option<Option<&'f [u8]>>, SourceError> {
    let Ok(length) = at.try_get_i32() else { return Ok(None) };
    if length == -1 {
        return Ok(Some(None));
    }
    let length = usize::try_from(length).map_err(|_| malformed("a field's length"))?;
    let Some((field, buffer)) = at.split_at_checked(length) else { return Ok(None) };
    *at = buffer;
    Ok(Some(Some(field)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(rows: &[(i64, i64, Option<&str>)]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 8]);
        for (time, key, doc) in rows {
            bytes.extend(3_i16.to_be_bytes());
            for number in [time - POSTGRES_EPOCH_US, *key] {
                bytes.extend(8_i32.to_be_bytes());
                bytes.extend(number.to_be_bytes());
            }
            match doc {
                None => bytes.extend((-1_i32).to_be_bytes()),
                Some(doc) => {
                    bytes.extend(i32::try_from(doc.len() + 1).unwrap().to_be_bytes());
                    bytes.push(JSONB_VERSION);
                    bytes.extend(doc.as_bytes());
                }
            }
        }
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    }

    fn decoder() -> Decoder {
        Decoder {
            key: KeyType::Integer,
            time: TimeType::Instant,
            doc: DocType::Jsonb,
            has_ordinal: false,
            ordinal: 0,
            has_header: false,
            is_complete: false,
            buffer: Bytes::new(),
        }
    }

    proptest! {
        #[test]
        fn the_stream_may_be_split_anywhere(sizes in prop::collection::vec(1_usize..40, 1..40)) {
            let rows = [(1, 7, Some("{\"a\":1}")), (1, 8, None), (2_000_000, -9, Some("{}"))];
            let bytes = Bytes::from(stream(&rows));
            let (mut decoder, mut at, mut read) = (decoder(), 0, Vec::new());
            for size in sizes.into_iter().chain(std::iter::repeat(25)) {
                let end = (at + size).min(bytes.len());
                decoder.push(bytes.slice(at..end));
                while let Some(row) = decoder.row().unwrap() {
                    read.push(row);
                }
                at = end;
                if at == bytes.len() {
                    break;
                }
            }
            prop_assert!(decoder.is_complete());
            let expected = rows.map(|(time_us, key, doc)| Row { position: Position { time_us, key: RowKey::Integer(key) }, doc: doc.map(|doc| Bytes::from(doc.to_owned())) });
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn a_malformed_stream_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), whole_header in any::<bool>()) {
            let mut decoder = decoder();
            decoder.has_header = whole_header;
            decoder.push(Bytes::from(bytes));
            for _ in 0..100 {
                if !matches!(decoder.row(), Ok(Some(_))) {
                    break;
                }
            }
        }
    }
}
