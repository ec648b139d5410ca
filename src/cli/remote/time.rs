//! Times on the command line: the service's own forms, and some that are relative to now.

use chrono::{DateTime, NaiveTime, SecondsFormat, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use data_patch_client::HttpClient;

use super::UsageError;

/// Returns a time in a form that the service accepts: relative ones are resolved in its zone, others
/// are passed through.
pub async fn resolve(client: &HttpClient, text: String) -> anyhow::Result<String> {
    if !is_relative(&text) {
        return Ok(text);
    }
    let zone = client.service().await?.limits.time_zone;
    let zone: Tz = zone.parse().map_err(|_| anyhow::anyhow!("the service's time zone {zone} is not known here"))?;
    let now = Utc::now().with_timezone(&zone);
    let time = parse(&text, now).ok_or_else(|| {
        UsageError(format!("{text:?} is no time; times are like \"3 days ago\", \"yesterday 08:00\", \"2019-01-11 21:03:00\""))
    })?;
    Ok(time.to_utc().to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// A time as tables show it.
pub fn show(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn is_relative(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    matches!(first, "now" | "today" | "yesterday") || text.trim_end().ends_with("ago")
}

/// Parses `now`, `N UNITS ago`, `today [HH:MM[:SS]]` and `yesterday [HH:MM[:SS]]`.
fn parse(text: &str, now: DateTime<Tz>) -> Option<DateTime<Tz>> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["now"] => Some(now),
        [amount, unit, "ago"] => {
            let amount: i64 = amount.parse().ok().filter(|amount| *amount >= 0)?;
            match unit.strip_suffix('s').unwrap_or(unit) {
                "second" => now.checked_sub_signed(TimeDelta::try_seconds(amount)?),
                "minute" => now.checked_sub_signed(TimeDelta::try_minutes(amount)?),
                "hour" => now.checked_sub_signed(TimeDelta::try_hours(amount)?),
                "day" => days_ago(now, amount),
                "week" => days_ago(now, amount.checked_mul(7)?),
                _ => None,
            }
        }
        [day, rest @ ..] => {
            let days = match *day {
                "today" => 0,
                "yesterday" => 1,
                _ => return None,
            };
            let time = match rest {
                [] => NaiveTime::MIN,
                [time] => ["%H:%M", "%H:%M:%S"].into_iter().find_map(|form| NaiveTime::parse_from_str(time, form).ok())?,
                _ => return None,
            };
            let date = now.date_naive().checked_sub_signed(TimeDelta::days(days))?;
            now.timezone().from_local_datetime(&date.and_time(time)).earliest()
        }
        [] => None,
    }
}

/// The same time of day, also where the clocks were changed in between.
fn days_ago(now: DateTime<Tz>, days: i64) -> Option<DateTime<Tz>> {
    let local = now.naive_local().checked_sub_signed(TimeDelta::try_days(days)?)?;
    now.timezone().from_local_datetime(&local).earliest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_times_are_those_of_the_services_zone() {
        // 01:30 on the 3rd in Shanghai is still the 2nd in UTC.
        let now = "2019-03-02T17:30:00Z".parse::<DateTime<Utc>>().unwrap().with_timezone(&chrono_tz::Asia::Shanghai);
        for (text, expected) in [
            ("now", "2019-03-02T17:30:00Z"),
            ("3 days ago", "2019-02-27T17:30:00Z"),
            ("1 week ago", "2019-02-23T17:30:00Z"),
            ("90  minutes ago", "2019-03-02T16:00:00Z"),
            ("today", "2019-03-02T16:00:00Z"),
            ("yesterday 08:00", "2019-03-02T00:00:00Z"),
            ("yesterday 08:00:05", "2019-03-02T00:00:05Z"),
        ] {
            assert!(is_relative(text), "{text}");
            assert_eq!(parse(text, now).map(|time| show(time.to_utc())).as_deref(), Some(expected), "{text}");
        }
        for text in ["-1 days ago", "3 fortnights ago", "ago", "today 25:00", "yesterday 8 o'clock", "99999999999999 weeks ago"] {
            assert!(is_relative(text) && parse(text, now).is_none(), "{text}");
        }
        assert!(!is_relative("2019-01-11 21:03:00") && !is_relative(""));
    }
}
