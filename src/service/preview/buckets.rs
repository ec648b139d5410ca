//! How a range is divided, so that its rows can be drawn.

use chrono::{DateTime, Offset as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

use crate::{protocol::http::BucketUnit, source::Buckets};

/// The most buckets of a range.
const MAX_BUCKETS: i64 = 200;
const MINUTES: [i64; 6] = [1, 2, 5, 10, 15, 30];
const HOURS: [i64; 6] = [1, 2, 3, 4, 6, 12];
const DAYS: [i64; 3] = [1, 2, 7];

/// A range that is divided into buckets of whole minutes, hours or days.
#[derive(Debug, Clone)]
pub struct Division {
    pub buckets: Buckets,
    pub unit: BucketUnit,
    pub units: u32,
}

impl Division {
    /// Divides a range into as many buckets as possible, at most 200. They begin at whole
    /// minutes, hours or days of the zone, as it is at the start of the range.
    pub fn of(from: DateTime<Utc>, to: DateTime<Utc>, zone: Tz) -> Self {
        let offset = i64::from(zone.offset_from_utc_datetime(&from.naive_utc()).fix().local_minus_utc());
        let local = from.timestamp() + offset;
        let of = |unit, seconds: i64, units: i64| {
            // A day and its parts begin at midnight; several days begin with the first day.
            let step = if unit == BucketUnit::Day { seconds } else { seconds * units };
            let start = local.div_euclid(step) * step - offset;
            let length = seconds * units;
            let count = (to.timestamp() - start).div_euclid(length) + 1;
            (unit, units, start, length, count)
        };
        let days = (to.timestamp() - from.timestamp()).div_euclid(86_400) + 2;
        let further_days = days.div_euclid(MAX_BUCKETS - 1) + 1;
        let choices = MINUTES.map(|n| (BucketUnit::Minute, 60, n)).into_iter();
        let choices =
            choices.chain(HOURS.map(|n| (BucketUnit::Hour, 3_600, n))).chain(DAYS.map(|n| (BucketUnit::Day, 86_400, n)));
        let (unit, units, start, length, count) = choices
            .map(|(unit, seconds, units)| of(unit, seconds, units))
            .find(|(.., count)| *count <= MAX_BUCKETS)
            .unwrap_or_else(|| of(BucketUnit::Day, 86_400, further_days));
        let buckets = Buckets {
            from,
            to,
            start: DateTime::from_timestamp(start, 0).unwrap_or(from),
            length: TimeDelta::seconds(length),
            count: u32::try_from(count.clamp(1, MAX_BUCKETS)).unwrap_or(1),
        };
        Self { buckets, unit, units: u32::try_from(units).unwrap_or(u32::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_is_divided_by_its_length() {
        let divided = |from: &str, to: &str| {
            let division = Division::of(from.parse().unwrap(), to.parse().unwrap(), chrono_tz::Asia::Shanghai);
            (division.unit, division.units, division.buckets.start.to_rfc3339(), division.buckets.count)
        };
        for (from, to, unit, units, start, count) in [
            ("2019-01-11T13:03:07Z", "2019-01-11T13:03:07Z", BucketUnit::Minute, 1, "2019-01-11T13:03:00+00:00", 1),
            ("2019-01-11T13:03:07Z", "2019-01-11T14:03:07Z", BucketUnit::Minute, 1, "2019-01-11T13:03:00+00:00", 61),
            // The contract's first request; three hours of the day in Shanghai.
            ("2019-01-11T13:03:00Z", "2019-01-15T06:30:00Z", BucketUnit::Minute, 30, "2019-01-11T13:00:00+00:00", 180),
            ("2019-01-01T00:00:00Z", "2019-02-01T00:00:00Z", BucketUnit::Hour, 4, "2019-01-01T00:00:00+00:00", 187),
            ("2019-01-01T00:00:00Z", "2019-06-01T00:00:00Z", BucketUnit::Day, 1, "2018-12-31T16:00:00+00:00", 152),
            ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", BucketUnit::Day, 18_353, "0000-12-31T15:54:17+00:00", 199),
        ] {
            assert_eq!(divided(from, to), (unit, units, start.to_owned(), count), "{from} {to}");
        }
    }

    proptest! {
        #[test]
        fn buckets_cover_the_range(from in 0_i64..4_000_000_000, length in 0_i64..4_000_000_000) {
            let time = |seconds| DateTime::from_timestamp(seconds, 999_999_999).unwrap();
            let (from, to) = (time(from), time(from + length));
            for zone in [chrono_tz::UTC, chrono_tz::Asia::Shanghai, chrono_tz::Asia::Kathmandu, chrono_tz::America::St_Johns] {
                let Buckets { start, length, count, .. } = Division::of(from, to, zone).buckets;
                prop_assert!(count >= 1 && i64::from(count) <= MAX_BUCKETS);
                prop_assert!(start <= from && from < start + length);
                let last = start + length * (i32::try_from(count).unwrap() - 1);
                prop_assert!(last <= to && to < last + length);
            }
        }
    }
}
