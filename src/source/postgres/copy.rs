//! PostgreSQL's binary COPY format (PostgreSQL's documentation, "COPY", section "Binary Format"): a document goes from
//! the wire to Kafka in the buffer that it came in.

use bytes::{Buf, Bytes, BytesMut};
use uuid::Uuid;

use crate::source::{DocType, Key, KeyType, Row, SourceError, TimeType};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// 2000-01-01, from where PostgreSQL counts, in microseconds since 1970.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
/// What `jsonb` begins with on the wire.
const JSONB_VERSION: u8 = 1;

/// Reads rows of time, key and document from the stream's pieces, wherever they are cut.
pub struct Decoder {
    key: KeyType,
    time: TimeType,
    doc: DocType,
    /// A number comes before each row's time.
    numbered: bool,
    number: i32,
    begun: bool,
    ended: bool,
    rest: Bytes,
}

impl Decoder {
    /// Of columns of these types.
    pub fn new(key: KeyType, time: TimeType, doc: DocType) -> Self {
        Self { key, time, doc, numbered: false, number: 0, begun: false, ended: false, rest: Bytes::new() }
    }

    /// Of rows that each have a number before these columns.
    #[must_use]
    pub fn with_ordinal(self) -> Self {
        Self { numbered: true, ..self }
    }

    /// The number of the row that came last.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Takes the next piece of the stream.
    pub fn push(&mut self, piece: Bytes) {
        if self.rest.is_empty() {
            // What PostgreSQL sends is cut between rows, so nothing is copied here.
            self.rest = piece;
            return;
        }
        let mut joined = BytesMut::with_capacity(self.rest.len() + piece.len());
        joined.extend_from_slice(&self.rest);
        joined.extend_from_slice(&piece);
        self.rest = joined.freeze();
    }

    /// The next row, if it is there as a whole.
    ///
    /// # Errors
    /// The stream is not what PostgreSQL would send.
    pub fn row(&mut self) -> Result<Option<Row>, SourceError> {
        if !self.begun {
            let Some(rest) = header(&self.rest)? else { return Ok(None) };
            self.rest = rest;
            self.begun = true;
        }
        // Fields are looked at where they lie; of what is shared, only the document.
        let mut at = self.rest.as_ref();
        let Ok(fields) = at.try_get_i16() else { return Ok(None) };
        if fields == -1 {
            self.ended = true;
            return Ok(None);
        }
        let mut number = self.number;
        if self.numbered {
            let Some(field) = field(&mut at)? else { return Ok(None) };
            number = field.and_then(|mut field| field.try_get_i32().ok()).ok_or_else(|| malformed("a row's number"))?;
        }
        let Some(time) = field(&mut at)? else { return Ok(None) };
        let Some(key) = field(&mut at)? else { return Ok(None) };
        let Some(doc) = field(&mut at)? else { return Ok(None) };
        let doc = self.doc(doc)?.map(|doc| self.rest.slice_ref(doc));
        let row = Row { time_us: self.time(time)?, key: self.key(key)?, doc };
        let taken = self.rest.len() - at.len();
        self.rest.advance(taken);
        self.number = number;
        Ok(Some(row))
    }

    /// Whether the stream's end was seen: without it, rows may be missing.
    pub fn is_complete(&self) -> bool {
        self.ended
    }

    fn time(&self, field: Option<&[u8]>) -> Result<i64, SourceError> {
        let stored = field.and_then(|mut field| field.try_get_i64().ok()).ok_or_else(|| malformed("a time"))?;
        Ok(match self.time {
            TimeType::Instant | TimeType::Local(_) => stored.saturating_add(POSTGRES_EPOCH_US),
            TimeType::EpochMillis => stored.saturating_mul(1_000),
        })
    }

    fn key(&self, field: Option<&[u8]>) -> Result<Key, SourceError> {
        let field = field.ok_or_else(|| SourceError::Rejected("a row has no key (iota.raw.id is NULL)".to_owned()))?;
        let key = match self.key {
            KeyType::Integer => field.try_into().ok().map(|bytes| Key::Integer(i64::from_be_bytes(bytes))),
            KeyType::Uuid => Uuid::from_slice(field).ok().map(Key::Uuid),
            KeyType::Text => std::str::from_utf8(field).ok().map(|text| Key::Text(text.into())),
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
    SourceError::Rejected(format!("{what} came in a form that is not PostgreSQL's"))
}

/// What follows the header, once that is there.
fn header(bytes: &Bytes) -> Result<Option<Bytes>, SourceError> {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes.get(..seen) != SIGNATURE.get(..seen) {
        return Err(malformed("the stream's beginning"));
    }
    let mut at = bytes.clone();
    if at.len() < SIGNATURE.len() + 8 {
        return Ok(None);
    }
    // The signature, and flags that concern nobody here.
    at.advance(SIGNATURE.len() + 4);
    let Ok(extension) = at.try_get_i32() else { return Ok(None) };
    let extension = usize::try_from(extension).map_err(|_| malformed("the stream's beginning"))?;
    if at.len() < extension {
        return Ok(None);
    }
    at.advance(extension);
    Ok(Some(at))
}

/// A field, or that it is NULL; or nothing, if it is not there as a whole.
#[expect(clippy::option_option, reason = "not there yet, and there as NULL, are two things")]
fn field<'f>(at: &mut &'f [u8]) -> Result<Option<Option<&'f [u8]>>, SourceError> {
    let Ok(length) = at.try_get_i32() else { return Ok(None) };
    if length == -1 {
        return Ok(Some(None));
    }
    let length = usize::try_from(length).map_err(|_| malformed("a field's length"))?;
    let Some((field, rest)) = at.split_at_checked(length) else { return Ok(None) };
    *at = rest;
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
            numbered: false,
            number: 0,
            begun: false,
            ended: false,
            rest: Bytes::new(),
        }
    }

    proptest! {
        #[test]
        fn wherever_the_stream_is_cut(cuts in prop::collection::vec(1_usize..40, 1..40)) {
            let rows = [(1, 7, Some("{\"a\":1}")), (1, 8, None), (2_000_000, -9, Some("{}"))];
            let bytes = Bytes::from(stream(&rows));
            let (mut decoder, mut at, mut read) = (decoder(), 0, Vec::new());
            for cut in cuts.into_iter().chain(std::iter::repeat(25)) {
                let end = (at + cut).min(bytes.len());
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
            let expected = rows.map(|(time_us, key, doc)| Row { time_us, key: Key::Integer(key), doc: doc.map(|doc| Bytes::from(doc.to_owned())) });
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn no_stream_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200), whole_header in any::<bool>()) {
            let mut decoder = decoder();
            decoder.begun = whole_header;
            decoder.push(Bytes::from(bytes));
            for _ in 0..100 {
                if !matches!(decoder.row(), Ok(Some(_))) {
                    break;
                }
            }
        }
    }
}
