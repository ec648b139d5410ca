//! The time formats that requests may use, and the one in which times of rows are shown.

use std::fmt::Write as _;

use chrono::{
    DateTime, Datelike, FixedOffset, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeZone, Timelike,
};
use chrono_tz::Tz;

/// The accepted formats, for error messages.
pub const ACCEPTED: &str = "accepted are 2019-01-11T21:03:00.000+0800, 2019-01-11T13:03:00Z (any offset; fraction of up to nine digits; \
    T or a space), and 2019-01-11 21:03:00 or 2019-01-11T21:03:00 in the service's time zone";

/// Why a string is not an accepted time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    #[error("is not a time in an accepted format")]
    Format,
    #[error("is a date or time that does not exist")]
    NoSuchTime,
    #[error("does not exist in {0}: the clocks were set forward over it; add an offset")]
    Skipped(Tz),
}

/// Which instant is meant if the clocks were set back and a local time occurs twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The start of a range: the earlier instant.
    From,
    /// The end of a range: the later instant.
    To,
}

/// Parses a time. The result has the given offset, or that of `zone` if none is given.
///
/// ```
/// use data_patch_protocol::time::{Bound, parse};
///
/// let time = parse("2019-01-11 21:03:00", chrono_tz::Asia::Shanghai, Bound::From).unwrap();
/// assert_eq!(time.to_rfc3339(), "2019-01-11T21:03:00+08:00");
/// ```
///
/// # Errors
/// The text has another format, or names a time that does not exist.
pub fn parse(text: &str, zone: Tz, bound: Bound) -> Result<DateTime<FixedOffset>, TimeError> {
    let mut scan = Scan(text.as_bytes());
    let year = scan.digits(4)?;
    scan.byte(b"-")?;
    let month = scan.digits(2)?;
    scan.byte(b"-")?;
    let day = scan.digits(2)?;
    scan.byte(b"T ")?;
    let hour = scan.digits(2)?;
    scan.byte(b":")?;
    let minute = scan.digits(2)?;
    scan.byte(b":")?;
    let second = scan.digits(2)?;
    let nanosecond = scan.fraction()?;
    let offset = scan.offset()?;

    if year == 0 {
        return Err(TimeError::NoSuchTime);
    }
    let date = i32::try_from(year).ok().and_then(|year| NaiveDate::from_ymd_opt(year, month, day));
    let time = NaiveTime::from_hms_nano_opt(hour, minute, second, nanosecond.unwrap_or(0));
    let (Some(date), Some(time)) = (date, time) else { return Err(TimeError::NoSuchTime) };
    let local = NaiveDateTime::new(date, time);

    let instant = match offset {
        Some(seconds) => FixedOffset::east_opt(seconds)
            .and_then(|offset| offset.from_local_datetime(&local).single())
            .ok_or(TimeError::NoSuchTime),
        // Without an offset, only whole seconds are accepted. A fraction is written by a program,
        // and a program that writes no offset often means UTC (a `Z` was cut off). A refusal costs
        // the user a moment; a range that is off by the zone would publish the wrong rows.
        None if nanosecond.is_none() => match zone.from_local_datetime(&local) {
            LocalResult::Single(time) => Ok(time.fixed_offset()),
            LocalResult::Ambiguous(earlier, later) => {
                Ok(if bound == Bound::From { earlier.min(later) } else { earlier.max(later) }.fixed_offset())
            }
            LocalResult::None => Err(TimeError::Skipped(zone)),
        },
        None => Err(TimeError::Format),
    }?;
    // The databases of the source support no other years.
    if (1..=9999).contains(&instant.to_utc().year()) { Ok(instant) } else { Err(TimeError::NoSuchTime) }
}

/// Writes the time of a row, in microseconds since 1970, as RFC 3339 in UTC, ending in `Z`: without
/// a fraction, or with three or six digits of it, whatever it needs. Consumers compare the header
/// `data-patch-row`, which contains it, so the format must not change.
///
/// ```
/// use data_patch_protocol::time::show_micros;
///
/// assert_eq!(show_micros(1_547_211_780_000_000), "2019-01-11T13:03:00Z");
/// assert_eq!(show_micros(1_547_211_780_120_000), "2019-01-11T13:03:00.120Z");
/// ```
pub fn show_micros(time_us: i64) -> String {
    let mut text = String::with_capacity(27);
    push_micros(&mut text, time_us);
    text
}

/// Appends what [`show_micros`] returns, without allocating: each published row has it in a header.
pub fn push_micros(text: &mut String, time_us: i64) {
    let Some(time) = DateTime::from_timestamp_micros(time_us) else {
        // Writing to a string cannot fail.
        let _ = write!(text, "{time_us} µs");
        return;
    };
    let Some(year) = u32::try_from(time.year()).ok().filter(|year| *year <= 9_999) else {
        // A year of more than four digits, or before the year 0, has a sign.
        text.push_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        return;
    };
    push_digits(text, year, 1_000);
    for (separator, number) in
        [('-', time.month()), ('-', time.day()), ('T', time.hour()), (':', time.minute()), (':', time.second())]
    {
        text.push(separator);
        push_digits(text, number, 10);
    }
    match time.timestamp_subsec_micros() {
        0 => {}
        micros => {
            text.push('.');
            if micros % 1_000 == 0 {
                push_digits(text, micros / 1_000, 100);
            } else {
                push_digits(text, micros, 100_000);
            }
        }
    }
    text.push('Z');
}

/// Appends the decimal digits of a number, from that of the unit `first` on.
fn push_digits(text: &mut String, number: u32, first: u32) {
    let mut unit = first;
    while unit > 0 {
        text.push(char::from(b'0' + (number / unit % 10) as u8));
        unit /= 10;
    }
}

/// The rest of the text.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn digit(&mut self) -> Option<u32> {
        let (&first, rest) = self.0.split_first().filter(|(first, _)| first.is_ascii_digit())?;
        self.0 = rest;
        Some(u32::from(first - b'0'))
    }

    /// Exactly `count` digits.
    fn digits(&mut self, count: usize) -> Result<u32, TimeError> {
        (0..count).try_fold(0, |number, _| Some(number * 10 + self.digit()?)).ok_or(TimeError::Format)
    }

    /// One of the bytes in `any`.
    fn byte(&mut self, any: &[u8]) -> Result<u8, TimeError> {
        let (&first, rest) = self.0.split_first().filter(|(first, _)| any.contains(first)).ok_or(TimeError::Format)?;
        self.0 = rest;
        Ok(first)
    }

    /// `.` and one to nine digits, as nanoseconds.
    fn fraction(&mut self) -> Result<Option<u32>, TimeError> {
        if self.byte(b".").is_err() {
            return Ok(None);
        }
        let mut nanoseconds = self.digit().ok_or(TimeError::Format)?;
        for _ in 1..9 {
            nanoseconds = nanoseconds * 10 + self.digit().unwrap_or(0);
        }
        Ok(Some(nanoseconds))
    }

    /// `Z`, `+08`, `+0800` or `+08:00`, in seconds east, and then the end of the text.
    fn offset(&mut self) -> Result<Option<i32>, TimeError> {
        let Some((sign, rest)) = self.0.split_first() else { return Ok(None) };
        self.0 = rest;
        let seconds = match sign {
            b'Z' => 0,
            b'+' | b'-' => {
                let hours = self.digits(2)?;
                let colon = self.byte(b":").is_ok();
                let minutes = if self.0.is_empty() && !colon { 0 } else { self.digits(2)? };
                if hours > 23 || minutes > 59 {
                    return Err(TimeError::NoSuchTime);
                }
                let seconds = (hours * 3_600 + minutes * 60).cast_signed();
                if *sign == b'-' { -seconds } else { seconds }
            }
            _ => return Err(TimeError::Format),
        };
        if self.0.is_empty() { Ok(Some(seconds)) } else { Err(TimeError::Format) }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use chrono_tz::{America::New_York, Asia::Shanghai};
    use proptest::prelude::*;

    use super::*;

    fn utc(text: &str) -> Result<String, TimeError> {
        parse(text, Shanghai, Bound::From).map(|time| time.to_utc().to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
    }

    #[test]
    fn accepted_formats() {
        for (text, expected) in [
            ("2019-01-11T21:03:00.000+0800", "2019-01-11T13:03:00Z"),
            ("2019-01-11T21:03:00+08:00", "2019-01-11T13:03:00Z"),
            ("2019-01-11T21:03:00+08", "2019-01-11T13:03:00Z"),
            ("2019-01-11T13:03:00Z", "2019-01-11T13:03:00Z"),
            ("2019-01-11 13:03:00Z", "2019-01-11T13:03:00Z"),
            ("2019-01-11 21:03:00", "2019-01-11T13:03:00Z"),
            ("2019-01-11T21:03:00", "2019-01-11T13:03:00Z"),
            ("2019-01-11T21:03:00.123456789-03:30", "2019-01-12T00:33:00.123456789Z"),
            ("2019-01-11T21:03:00.5Z", "2019-01-11T21:03:00.500Z"),
            ("2020-02-29T00:00:00Z", "2020-02-29T00:00:00Z"),
        ] {
            assert_eq!(utc(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refused_formats() {
        for text in [
            "",
            "2019-01-11",
            "2019-01-11T21:03Z",
            "2019-01-11T21:03:00.000",
            "2019-01-11 21:03:00.000",
            "2019-01-11t21:03:00",
            "2019-1-11T21:03:00Z",
            "1547211780",
            "2019-01-11T21:03:00.Z",
            "2019-01-11T21:03:00.1234567890Z",
            "2019-01-11T21:03:00+8",
            "2019-01-11T21:03:00+08:",
            "2019-01-11T21:03:00+080",
            "2019-01-11T21:03:00Z ",
            " 2019-01-11T21:03:00Z",
            "2019-01-11  21:03:00",
            "２019-01-11 21:03:00",
            "yesterday",
            "2019-01-11T21:03:00+08:00x",
        ] {
            assert_eq!(utc(text), Err(TimeError::Format), "{text}");
        }
    }

    #[test]
    fn times_that_do_not_exist() {
        for text in [
            "2019-02-29T00:00:00Z",
            "2019-13-01T00:00:00Z",
            "2019-01-11T24:00:00Z",
            "2019-01-11T23:59:60Z",
            "0000-01-01T00:00:00Z",
            "2019-01-11T00:00:00+24:00",
            "2019-01-11T00:00:00+08:60",
            "9999-12-31T23:59:59-01",
            "2019-04-31 00:00:00",
            // In Shanghai, which is before year 1 in UTC.
            "0001-01-01 00:00:00",
        ] {
            assert_eq!(utc(text), Err(TimeError::NoSuchTime), "{text}");
        }
    }

    #[test]
    fn local_times_that_exist_twice_or_never() {
        let read = |text, bound| parse(text, New_York, bound).map(|time| time.to_utc().to_rfc3339());
        assert_eq!(read("2019-11-03 01:30:00", Bound::From).as_deref(), Ok("2019-11-03T05:30:00+00:00"));
        assert_eq!(read("2019-11-03 01:30:00", Bound::To).as_deref(), Ok("2019-11-03T06:30:00+00:00"));
        assert_eq!(read("2019-03-10 02:30:00", Bound::From), Err(TimeError::Skipped(New_York)));
    }

    #[test]
    fn times_of_rows_end_in_z_and_have_the_digits_that_they_need() {
        for (time_us, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_547_211_780_000_000, "2019-01-11T13:03:00Z"),
            (1_547_211_780_050_000, "2019-01-11T13:03:00.050Z"),
            (1_547_211_780_000_001, "2019-01-11T13:03:00.000001Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
            (253_402_300_800_000_000, "+10000-01-01T00:00:00Z"),
            (-62_167_219_200_000_000, "0000-01-01T00:00:00Z"),
            (-62_167_219_200_000_001, "-0001-12-31T23:59:59.999999Z"),
            (i64::MAX, "9223372036854775807 µs"),
        ] {
            assert_eq!(show_micros(time_us), expected);
        }
    }

    proptest! {
        #[test]
        fn times_of_rows_are_written_as_chrono_writes_them(
            seconds in -90_000_000_000_i64..300_000_000_000,
            micros in prop_oneof![Just(0), (0..1_000_i64).prop_map(|ms| ms * 1_000), 0..1_000_000_i64],
        ) {
            let time_us = seconds * 1_000_000 + micros;
            let expected = DateTime::from_timestamp_micros(time_us).unwrap().to_rfc3339_opts(SecondsFormat::AutoSi, true);
            prop_assert_eq!(show_micros(time_us), expected);
        }

        #[test]
        fn no_text_causes_a_panic(text in "\\PC{0,40}") {
            let _ = parse(&text, Shanghai, Bound::From);
        }

        #[test]
        fn times_written_by_chrono_are_read_back(seconds in -62_135_596_800_i64..253_402_300_800, nanosecond in 0_u32..1_000_000_000) {
            let time = DateTime::<Utc>::from_timestamp(seconds, nanosecond).unwrap();
            let text = time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
            prop_assert_eq!(parse(&text, Shanghai, Bound::From), Ok(time.fixed_offset()));
        }
    }
}
