//! What holds of every text that is given as a time.

use chrono::{DateTime, Datelike, NaiveDateTime, SecondsFormat, Utc};
use chrono_tz::{America::New_York, Asia::Shanghai, Australia::Lord_Howe, Pacific::Apia, Tz, UTC};
use data_patch_protocol::time::{Bound, TimeError, parse};

/// The usual one; clocks put back by an hour, by half an hour, and over a whole day; and none at all.
const ZONES: [Tz; 5] = [Shanghai, New_York, Lord_Howe, Apia, UTC];

/// Panics where a property does not hold.
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
            comes_back(text, zone, time.to_utc());
        }
        match (&theirs, &from) {
            (Ok(theirs), Ok(ours)) => assert_eq!(theirs, ours, "{text:?}"),
            (Ok(theirs), Err(error)) => assert!(stricter(text, theirs.to_utc(), error), "{text:?}: {theirs}, but {error}"),
            (Err(_), _) => {}
        }
    }
}

/// chrono reads what is accepted as the same instant, once an offset has its one form.
fn accepted(text: &str, zone: Tz, time: DateTime<Utc>) {
    if text.len() == 19 {
        let local = NaiveDateTime::parse_from_str(&text.replace('T', " "), "%Y-%m-%d %H:%M:%S").expect(text);
        assert_eq!(time.with_timezone(&zone).naive_local(), local, "{text:?} in {zone}");
        return;
    }
    // Behind the date's own dashes.
    let (local, offset) = text.split_at(19 + text[19..].find(['Z', '+', '-']).expect(text));
    let offset = match offset.replace(':', "").as_str() {
        hours if hours.len() == 3 => format!("{hours}:00"),
        minutes if minutes.len() == 5 => format!("{}:{}", &minutes[..3], &minutes[3..]),
        zulu => zulu.to_owned(),
    };
    assert_eq!(DateTime::parse_from_rfc3339(&format!("{local}{offset}")).expect(text), time, "{text:?}");
}

/// What is accepted can be written and read again.
fn comes_back(text: &str, zone: Tz, time: DateTime<Utc>) {
    let written = time.to_rfc3339_opts(SecondsFormat::Nanos, true);
    assert_eq!(parse(&written, zone, Bound::From), Ok(time.fixed_offset()), "{text:?} in {zone} is {written}");
}

/// What chrono accepts, and the service does not: a leap second (the stores have none, and a range that begins or ends
/// within one is a slip of the pen), years that the stores can't be asked for, and forms beyond the contract's.
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
