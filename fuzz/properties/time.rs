//! The properties of every text that is parsed as a time.

use chrono::{DateTime, Datelike, NaiveDateTime, SecondsFormat, Utc};
use chrono_tz::{America::New_York, Asia::Shanghai, Australia::Lord_Howe, Pacific::Apia, Tz, UTC};
use data_patch_protocol::time::{Bound, TimeError, parse};

/// The usual zone; zones whose clocks were set back by an hour, half an hour, and a day; and UTC.
const ZONES: [Tz; 5] = [Shanghai, New_York, Lord_Howe, Apia, UTC];

/// Panics if a property does not hold.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let theirs = DateTime::parse_from_rfc3339(text);
    for zone in ZONES {
        let (from, to) = (parse(text, zone, Bound::From), parse(text, zone, Bound::To));
        match (&from, &to) {
            (Ok(from), Ok(to)) => assert!(from <= to, "{text:?} in {zone}: {from} > {to}"),
            (from, to) => assert_eq!(from, to, "{text:?} in {zone}"),
        }
        for time in [&from, &to].into_iter().flatten() {
            accepted(text, zone, time.to_utc());
            survives_round_trip(text, zone, time.to_utc());
        }
        match (&theirs, &from) {
            (Ok(theirs), Ok(ours)) => assert_eq!(theirs, ours, "{text:?}"),
            (Ok(theirs), Err(error)) => assert!(stricter(text, theirs.to_utc(), error), "{text:?}: {theirs}, but {error}"),
            (Err(_), _) => {}
        }
    }
}

/// chrono parses an accepted time as the same instant, once the offset has chrono's format.
fn accepted(text: &str, zone: Tz, time: DateTime<Utc>) {
    if text.len() == 19 {
        let local = NaiveDateTime::parse_from_str(&text.replace('T', " "), "%Y-%m-%d %H:%M:%S").expect(text);
        assert_eq!(time.with_timezone(&zone).naive_local(), local, "{text:?} in {zone}");
        return;
    }
    // After the dashes of the date.
    let (local, offset) = text.split_at(19 + text[19..].find(['Z', '+', '-']).expect(text));
    let offset = match offset.replace(':', "").as_str() {
        hours if hours.len() == 3 => format!("{hours}:00"),
        minutes if minutes.len() == 5 => format!("{}:{}", &minutes[..3], &minutes[3..]),
        zulu => zulu.to_owned(),
    };
    assert_eq!(DateTime::parse_from_rfc3339(&format!("{local}{offset}")).expect(text), time, "{text:?}");
}

/// An accepted time can be written and parsed again.
fn survives_round_trip(text: &str, zone: Tz, time: DateTime<Utc>) {
    let written = time.to_rfc3339_opts(SecondsFormat::Nanos, true);
    assert_eq!(parse(&written, zone, Bound::From), Ok(time.fixed_offset()), "{text:?} in {zone} is {written}");
}

/// Whether the service rejects what chrono accepts: a leap second (databases have none, so it is
/// likely a typo), years outside the range of databases, and formats that are not in the contract.
fn stricter(text: &str, theirs: DateTime<Utc>, error: &TimeError) -> bool {
    let fraction = text[19..].strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let beyond = text.contains(['t', 'z', '\u{2212}']) || fraction > 9;
    let leap = &text[17..19] == "60";
    let year = text.starts_with("0000") || !(1..=9999).contains(&theirs.year());
    match error {
        TimeError::Format => beyond,
        TimeError::NoSuchTime => leap || year,
        TimeError::Skipped(_) => false,
    }
}
