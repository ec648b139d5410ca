//! Local times in a time zone with daylight saving: some occur twice, and some never.

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;

use super::StoredRange;

const SECOND_US: i64 = 1_000_000;
/// Upper bound of one change of a zone's offset: the largest was a day, when Alaska moved across
/// the date line.
const MAX_STEP_SECONDS: i64 = 26 * 3_600;
/// Two transitions of a zone are further apart than this, so that sampling at this interval finds
/// each.
const MIN_SECONDS_BETWEEN_TRANSITIONS: i64 = 6 * 3_600;
/// 9999-12-31T23:59:59.999999: PostgreSQL parses no year of five digits in this format.
const LAST_US: i64 = 253_402_300_799_999_999;

/// The zone's offset from UTC in seconds, at an instant in seconds since 1970.
fn offset(zone: Tz, second: i64) -> i64 {
    let instant = DateTime::from_timestamp(second, 0).unwrap_or_default().naive_utc();
    i64::from(zone.offset_from_utc_datetime(&instant).fix().local_minus_utc())
}

/// The transitions of the zone in (from, to]: the second, and the offsets before and after it.
fn transitions(zone: Tz, from: i64, to: i64) -> Vec<(i64, i64, i64)> {
    let mut transitions = Vec::new();
    let mut at = from;
    while at < to {
        let next = at.saturating_add(MIN_SECONDS_BETWEEN_TRANSITIONS).min(to);
        let (before, after) = (offset(zone, at), offset(zone, next));
        if before != after {
            let (mut low, mut high) = (at, next);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if offset(zone, middle) == before { low = middle } else { high = middle }
            }
            transitions.push((high, before, after));
        }
        at = next;
    }
    transitions
}

/// The local times, in microseconds, of the instants from `from` to `to`, both inclusive.
pub fn range(zone: Tz, from: i64, to: i64) -> StoredRange {
    let second = |us: i64| us.div_euclid(SECOND_US);
    let local = |us: i64| us.saturating_add(offset(zone, second(us)) * SECOND_US).min(LAST_US);
    let (first, last) = (second(from), second(to));
    // In the middle of a long range, the times on both sides of a transition are all in the range.
    let mut near_transitions = transitions(zone, first, last.min(first + MAX_STEP_SECONDS));
    if last - MAX_STEP_SECONDS > first + MAX_STEP_SECONDS {
        near_transitions.extend(transitions(zone, last - MAX_STEP_SECONDS, last));
    } else {
        near_transitions.extend(transitions(zone, last.min(first + MAX_STEP_SECONDS), last));
    }
    let mut pieces = Vec::new();
    let mut start = local(from);
    for (at, before, after) in near_transitions {
        if after < before {
            pieces.push((start, (at + before) * SECOND_US - 1));
            start = (at + after) * SECOND_US;
        }
    }
    pieces.push((start, local(to)));
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
    let start = pieces.first().map_or_else(|| local(from), |(from, _)| *from);
    // An empty range stays empty.
    StoredRange { from: Some(start), to: end.unwrap_or(start - 1), holes }
}

/// Converts a local time to an instant. An ambiguous time is taken as the earlier instant. A time
/// that never occurs is read with the offset before the transition, as PostgreSQL does.
pub fn instant_us(zone: Tz, local_us: i64) -> i64 {
    let Some(local) = DateTime::from_timestamp_micros(local_us) else { return local_us };
    match zone.offset_from_local_datetime(&local.naive_utc()) {
        LocalResult::Single(offset) | LocalResult::Ambiguous(offset, _) => {
            local_us - i64::from(offset.fix().local_minus_utc()) * SECOND_US
        }
        LocalResult::None => {
            let second = local_us.div_euclid(SECOND_US);
            let near = transitions(zone, second - MAX_STEP_SECONDS, second + MAX_STEP_SECONDS);
            let change = near.iter().find(|(at, before, after)| (at + before..at + after).contains(&second));
            change.map_or(local_us, |(_, before, _)| local_us - before * SECOND_US)
        }
    }
}

/// The ranges (start, end) of ambiguous local times of which at least one instant is between `from`
/// and `to`.
pub fn ambiguous_times(zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<(NaiveDateTime, NaiveDateTime)> {
    let (from, to) = (from.timestamp(), to.timestamp());
    transitions(zone, from.saturating_sub(MAX_STEP_SECONDS), to.saturating_add(MAX_STEP_SECONDS))
        .into_iter()
        // Ambiguous times lie within one step on both sides of the transition.
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

    /// The instants of a local time, by chrono-tz.
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

    /// A time near a transition, if the year has one.
    fn near_a_transition(zone: Tz, year: i64, which: usize, by: i64) -> i64 {
        let start = (year - 1970) * 31_557_600;
        let near = transitions(zone, start, start + 31_557_600);
        let at = if near.is_empty() { start } else { near[which % near.len()].0 };
        (at + by) * SECOND_US
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn a_local_time_is_in_a_range_when_one_of_its_instants_is(
            zone in zones(), year in 1900_i64..2038, which in 0_usize..4,
            from in -8_000_i64..8_000, length in 0_i64..100_000, row in -100_000_i64..100_000, micros in 0_i64..SECOND_US,
        ) {
            let from = near_a_transition(zone, year, which, from);
            let to = from + length * SECOND_US;
            let range = range(zone, from, to);
            // Rows around both ends, in local time.
            for instant in [from + row * SECOND_US + micros, to + row * SECOND_US + micros, from + row % 60 * SECOND_US, to, from] {
                let local_us = instant + offset(zone, instant.div_euclid(SECOND_US)) * SECOND_US;
                let instants_of_row = instants(zone, local_us);
                prop_assume!(!instants_of_row.is_empty());
                let belongs = instants_of_row.iter().any(|instant| (from..=to).contains(instant));
                prop_assert_eq!(contains(&range, local_us), belongs, "{} {:?} {}: {:?}", zone, (from, to), local_us, range);
            }
        }

        #[test]
        fn a_local_time_is_read_as_one_of_its_instants(zone in zones(), year in 1900_i64..2038, which in 0_usize..4, by in -8_000_i64..8_000) {
            let instant = near_a_transition(zone, year, which, by);
            let local_us = instant + offset(zone, instant.div_euclid(SECOND_US)) * SECOND_US;
            let instants_of_row = instants(zone, local_us);
            let read = instant_us(zone, local_us);
            prop_assert!(instants_of_row.is_empty() || instants_of_row.first() == Some(&read), "{read} {instants_of_row:?}");
        }
    }

    #[test]
    fn the_autumn_hour_is_ambiguous() {
        let zone = chrono_tz::Europe::Berlin;
        let time = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let count = |from, to| ambiguous_times(zone, time(from), time(to)).len();
        assert_eq!(count("2024-10-27T00:30:00Z", "2024-10-27T00:40:00Z"), 1);
        assert_eq!(count("2024-10-27T01:30:00Z", "2024-10-27T01:40:00Z"), 1);
        assert_eq!(count("2024-10-26T01:30:00Z", "2024-10-26T23:59:59Z"), 0);
        assert_eq!(count("2024-10-27T02:00:00Z", "2024-10-28T01:40:00Z"), 0);
        assert_eq!(count("2020-01-01T00:00:00Z", "2025-01-01T00:00:00Z"), 5);
    }

    #[test]
    fn a_time_that_never_occurs_is_read_with_the_offset_before_the_transition() {
        let local = DateTime::parse_from_rfc3339("2024-03-31T02:30:00Z").unwrap().timestamp_micros();
        let instant = DateTime::parse_from_rfc3339("2024-03-31T01:30:00Z").unwrap().timestamp_micros();
        assert_eq!(instant_us(chrono_tz::Europe::Berlin, local), instant);
    }
}
