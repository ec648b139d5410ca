//! Local times of a zone that sets its clock back: some exist twice, and some never.

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;

use super::StoredRange;

const SECOND: i64 = 1_000_000;
/// A clock is never set back by more: the largest step was a day and its hours, when Alaska changed sides of the date line.
const LARGEST_STEP: i64 = 26 * 3_600;
/// Two changes of a zone's clock are farther apart; each is then found between two looks.
const BETWEEN_CHANGES: i64 = 6 * 3_600;
/// PostgreSQL reads no year of five digits: 9999-12-31T23:59:59.999999.
const LAST_US: i64 = 253_402_300_799_999_999;

/// Seconds that the zone is ahead of UTC at an instant (seconds since 1970).
fn offset(zone: Tz, second: i64) -> i64 {
    let instant = DateTime::from_timestamp(second, 0).unwrap_or_default().naive_utc();
    i64::from(zone.offset_from_utc_datetime(&instant).fix().local_minus_utc())
}

/// The seconds in (from, to] at which the zone's clock is set, each with what it is ahead before and after.
fn changes(zone: Tz, from: i64, to: i64) -> Vec<(i64, i64, i64)> {
    let mut changes = Vec::new();
    let mut at = from;
    while at < to {
        let next = at.saturating_add(BETWEEN_CHANGES).min(to);
        let (before, after) = (offset(zone, at), offset(zone, next));
        if before != after {
            let (mut low, mut high) = (at, next);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if offset(zone, middle) == before { low = middle } else { high = middle }
            }
            changes.push((high, before, after));
        }
        at = next;
    }
    changes
}

/// The local times, in microseconds, of the instants from `from` to `to`, both included.
pub fn range(zone: Tz, from: i64, to: i64) -> StoredRange {
    let second = |us: i64| us.div_euclid(SECOND);
    let local = |us: i64| us.saturating_add(offset(zone, second(us)) * SECOND).min(LAST_US);
    let (first, last) = (second(from), second(to));
    // In the middle of a long range the times before and after a change are all in it.
    let mut changes_near = changes(zone, first, last.min(first + LARGEST_STEP));
    if last - LARGEST_STEP > first + LARGEST_STEP {
        changes_near.extend(changes(zone, last - LARGEST_STEP, last));
    } else {
        changes_near.extend(changes(zone, last.min(first + LARGEST_STEP), last));
    }
    let mut pieces = Vec::new();
    let mut begin = local(from);
    for (at, before, after) in changes_near {
        if after < before {
            pieces.push((begin, (at + before) * SECOND - 1));
            begin = (at + after) * SECOND;
        }
    }
    pieces.push((begin, local(to)));
    pieces.retain(|(from, to)| from <= to);
    pieces.sort_unstable();
    let (mut holes, mut end) = (Vec::new(), None);
    for (from, to) in &pieces {
        if let Some(end) = end
            && *from > end + 1
        {
            holes.push((end + 1, from - 1));
        }
        end = end.max(Some(*to));
    }
    let begin = pieces.first().map_or_else(|| local(from), |(from, _)| *from);
    // An empty range stays one.
    StoredRange { from: Some(begin), to: end.unwrap_or(begin - 1), holes }
}

/// The instant of a local time. One that exists twice is taken for the earlier, and one that never is, as PostgreSQL does,
/// for what a clock would show that was not set.
pub fn instant_us(zone: Tz, local_us: i64) -> i64 {
    let Some(local) = DateTime::from_timestamp_micros(local_us) else { return local_us };
    match zone.offset_from_local_datetime(&local.naive_utc()) {
        LocalResult::Single(offset) | LocalResult::Ambiguous(offset, _) => {
            local_us - i64::from(offset.fix().local_minus_utc()) * SECOND
        }
        LocalResult::None => {
            let second = local_us.div_euclid(SECOND);
            let near = changes(zone, second - LARGEST_STEP, second + LARGEST_STEP);
            let change = near.iter().find(|(at, before, after)| (at + before..at + after).contains(&second));
            change.map_or(local_us, |(_, before, _)| local_us - before * SECOND)
        }
    }
}

/// The local times that exist twice, and of which at least one instant is between `from` and `to`: from, and up to.
pub fn twice(zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<(NaiveDateTime, NaiveDateTime)> {
    let (from, to) = (from.timestamp(), to.timestamp());
    changes(zone, from.saturating_sub(LARGEST_STEP), to.saturating_add(LARGEST_STEP))
        .into_iter()
        // From the first time that comes again to the last that does.
        .filter(|(at, before, after)| after < before && at - (before - after) <= to && from < at + (before - after))
        .filter_map(|(at, before, after)| {
            let local = |second| DateTime::from_timestamp(second, 0).map(|time: DateTime<Utc>| time.naive_utc());
            Some((local(at + after)?, local(at + before)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contains(range: &StoredRange, local_us: i64) -> bool {
        range.from.is_none_or(|from| from <= local_us)
            && local_us <= range.to
            && !range.holes.iter().any(|(from, to)| (*from..=*to).contains(&local_us))
    }

    /// The instants that a local time may mean, as chrono-tz knows them.
    fn instants(zone: Tz, local_us: i64) -> Vec<i64> {
        let local = DateTime::from_timestamp_micros(local_us).unwrap().naive_utc();
        match zone.from_local_datetime(&local) {
            LocalResult::None => Vec::new(),
            LocalResult::Single(time) => vec![time.timestamp_micros()],
            LocalResult::Ambiguous(one, other) => vec![one.timestamp_micros(), other.timestamp_micros()],
        }
    }

    fn zones() -> impl Strategy<Value = Tz> {
        prop::sample::select(chrono_tz::TZ_VARIANTS.to_vec())
    }

    /// Near a change of the clock, where there is one in the year.
    fn near_a_change(zone: Tz, year: i64, which: usize, by: i64) -> i64 {
        let begin = (year - 1970) * 31_557_600;
        let found = changes(zone, begin, begin + 31_557_600);
        let at = if found.is_empty() { begin } else { found[which % found.len()].0 };
        (at + by) * SECOND
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn a_local_time_is_in_a_range_when_one_of_its_instants_is(
            zone in zones(), year in 1900_i64..2038, which in 0_usize..4,
            from in -8_000_i64..8_000, length in 0_i64..100_000, row in -100_000_i64..100_000, micros in 0_i64..SECOND,
        ) {
            let from = near_a_change(zone, year, which, from);
            let to = from + length * SECOND;
            let range = range(zone, from, to);
            // Rows around both ends, as the zone's clock showed them.
            for instant in [from + row * SECOND + micros, to + row * SECOND + micros, from + row % 60 * SECOND, to, from] {
                let local_us = instant + offset(zone, instant.div_euclid(SECOND)) * SECOND;
                let means = instants(zone, local_us);
                prop_assume!(!means.is_empty());
                let belongs = means.iter().any(|instant| (from..=to).contains(instant));
                prop_assert_eq!(contains(&range, local_us), belongs, "{} {:?} {}: {:?}", zone, (from, to), local_us, range);
            }
        }

        #[test]
        fn a_local_time_is_read_as_one_of_its_instants(zone in zones(), year in 1900_i64..2038, which in 0_usize..4, by in -8_000_i64..8_000) {
            let instant = near_a_change(zone, year, which, by);
            let local_us = instant + offset(zone, instant.div_euclid(SECOND)) * SECOND;
            let means = instants(zone, local_us);
            let read = instant_us(zone, local_us);
            prop_assert!(means.is_empty() || means.first() == Some(&read), "{read} {means:?}");
        }
    }

    #[test]
    fn the_autumn_hour_is_told_of() {
        let zone = chrono_tz::Europe::Berlin;
        let time = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let asked = |from, to| twice(zone, time(from), time(to)).len();
        assert_eq!(asked("2024-10-27T00:30:00Z", "2024-10-27T00:40:00Z"), 1);
        assert_eq!(asked("2024-10-27T01:30:00Z", "2024-10-27T01:40:00Z"), 1);
        assert_eq!(asked("2024-10-26T01:30:00Z", "2024-10-26T23:59:59Z"), 0);
        assert_eq!(asked("2024-10-27T02:00:00Z", "2024-10-28T01:40:00Z"), 0);
        assert_eq!(asked("2020-01-01T00:00:00Z", "2025-01-01T00:00:00Z"), 5);
    }

    #[test]
    fn a_time_that_never_was_is_what_a_clock_shows_that_was_not_set() {
        let local = DateTime::parse_from_rfc3339("2024-03-31T02:30:00Z").unwrap().timestamp_micros();
        let instant = DateTime::parse_from_rfc3339("2024-03-31T01:30:00Z").unwrap().timestamp_micros();
        assert_eq!(instant_us(chrono_tz::Europe::Berlin, local), instant);
    }
}
