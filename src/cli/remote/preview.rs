//! `data-patch preview`, and what `submit` shows before it asks.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, stdout},
    process::ExitCode,
};

use chrono_tz::Tz;
use console::{
    Alignment::{Left, Right},
    pad_str, style,
};
use data_patch_client::HttpClient;
use indicatif::{HumanBytes, HumanCount, HumanDuration};

use super::{RemoteArgs, out, print_json, printable, request::RequestArgs, time};
use crate::{
    cli::table,
    protocol::{
        http::{DevicePreview, Overlap, PreviewLine, PreviewRequest, PreviewSummary},
        time::{self as wire_time, Bound},
    },
    service::Division,
};

pub const EXAMPLES: &str = "\
Nothing is published. On a terminal each device has a strip of its rows over the range; a blank in it is a gap.
--json prints one JSON value a line: each device as it is known, then the summary.

Examples (THING and DEVICE are UUIDs):
  data-patch preview THING DEVICE --from '2019-01-11 21:03:00' --to '2019-01-15 14:30:00'
  data-patch preview THING --all --from '3 days ago' --to now --rate 500
  data-patch preview THING --all --from yesterday --to today --json | jq 'select(.kind == \"summary\")'

Exit codes: 0 answered, 1 some devices would fail or could not be read, 2 usage, 3 not reachable, 4 refused.";

/// Columns of a name, and of a strip.
const NAME_WIDTH: usize = 24;
const STRIP_WIDTH: u32 = 40;
const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let request = args.request.read()?;
    let client = args.remote.client()?;
    let request = request.resolve(&client).await?;
    let summary = if args.remote.json {
        json(&client, &request).await?
    } else if args.remote.quiet {
        let summary = each(&client, &request, |_| Ok(())).await?;
        out::line(&summary.rows.to_string())?;
        summary
    } else if stdout().is_terminal() {
        strips(&client, &request).await?
    } else {
        plain(&client, &request).await?
    };
    Ok(if summary.problem_devices == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn each(
    client: &HttpClient,
    request: &PreviewRequest,
    mut on_device: impl FnMut(DevicePreview) -> anyhow::Result<()>,
) -> anyhow::Result<PreviewSummary> {
    let mut lines = client.preview(request).await?;
    while let Some(line) = lines.next().await? {
        match line {
            PreviewLine::Device(device) => on_device(device)?,
            PreviewLine::Summary(summary) => return Ok(summary),
        }
    }
    anyhow::bail!("the answer of the service has no summary")
}

async fn json(client: &HttpClient, request: &PreviewRequest) -> anyhow::Result<PreviewSummary> {
    let summary = each(client, request, |device| print_json(&PreviewLine::Device(device))).await?;
    print_json(&PreviewLine::Summary(summary.clone()))?;
    Ok(summary)
}

/// A table, once all devices are known.
async fn plain(client: &HttpClient, request: &PreviewRequest) -> anyhow::Result<PreviewSummary> {
    let mut rows = Vec::new();
    let summary = each(client, request, |device| {
        let show = |time: Option<_>| time.map_or_else(|| "-".to_owned(), time::show);
        rows.push([
            device.device_id.to_string(),
            name(&device),
            count(device.rows, device.is_estimate),
            show(device.first),
            show(device.last),
            problem(&device),
        ]);
        Ok(())
    })
    .await?;
    let head = ["device", "name", "rows", "first", "last", "problem"];
    for line in table::aligned(head, [Left, Left, Right, Left, Left, Left], &rows) {
        out::line(&line)?;
    }
    print_summary(&summary)?;
    Ok(summary)
}

/// A strip for each device as it is known.
pub async fn strips(client: &HttpClient, request: &PreviewRequest) -> anyhow::Result<PreviewSummary> {
    let division = division(client, request).await?;
    if let Some(Division { buckets, .. }) = &division {
        let axis = format!("{} … {}", time::show(buckets.from), time::show(buckets.to));
        out::line(&format!("{}  {:>10}  {axis}", pad_str("", NAME_WIDTH, Left, None), "rows"))?;
    }
    let summary = each(client, request, |device| {
        let name = name(&device);
        let name = pad_str(&name, NAME_WIDTH, Left, Some("…"));
        let rows = count(device.rows, device.is_estimate);
        let strip = match (&device.problem, &division) {
            (Some(_), _) if device.rows == 0 => style(problem(&device)).red().to_string(),
            (_, Some(division)) => style(format!("▕{}▏", strip(&device, division))).cyan().to_string(),
            (_, None) => String::new(),
        };
        out::line(&format!("{name}  {rows:>10}  {strip}"))
    })
    .await?;
    print_summary(&summary)?;
    Ok(summary)
}

/// How the service divides the range.
async fn division(client: &HttpClient, request: &PreviewRequest) -> anyhow::Result<Option<Division>> {
    let zone = client.service().await?.limits.time_zone;
    let Ok(zone) = zone.parse::<Tz>() else { return Ok(None) };
    let from = wire_time::parse(&request.from, zone, Bound::From);
    let to = wire_time::parse(&request.to, zone, Bound::To);
    // What is wrong with a time the service says.
    let (Ok(from), Ok(to)) = (from, to) else { return Ok(None) };
    Ok((from <= to).then(|| Division::of(from.to_utc(), to.to_utc(), zone)))
}

/// The rows of a device over the range, each column relative to the fullest one.
fn strip(device: &DevicePreview, Division { buckets, .. }: &Division) -> String {
    let width = STRIP_WIDTH.min(buckets.count).max(1);
    let mut columns = vec![0_u64; width as usize];
    for bucket in &device.buckets {
        let number = (bucket.start - buckets.start).num_seconds() / buckets.length.num_seconds().max(1);
        let column = number * i64::from(width) / i64::from(buckets.count.max(1));
        if let Some(column) = usize::try_from(column).ok().and_then(|column| columns.get_mut(column)) {
            *column = column.saturating_add(bucket.rows);
        }
    }
    let most = u128::from(columns.iter().copied().max().unwrap_or_default()).max(1);
    let highest = LEVELS.len() as u128 - 1;
    // Any row at all is seen.
    let level = |rows: u64| usize::try_from((u128::from(rows) * highest).div_ceil(most)).unwrap_or_default();
    columns.into_iter().map(|rows| LEVELS.get(level(rows)).copied().unwrap_or(' ')).collect()
}

fn name(device: &DevicePreview) -> String {
    device.name.as_deref().map(printable).filter(|name| !name.is_empty()).unwrap_or_else(|| device.device_id.to_string())
}

fn problem(device: &DevicePreview) -> String {
    device.problem.as_deref().map(printable).unwrap_or_default()
}

fn count(rows: u64, is_estimate: bool) -> String {
    format!("{}{}", if is_estimate { "~" } else { "" }, HumanCount(rows))
}

/// The totals, and the tasks that overlap.
fn print_summary(summary: &PreviewSummary) -> anyhow::Result<()> {
    let PreviewSummary { devices, problem_devices, rows, is_estimate, bytes, .. } = summary;
    let mut text = format!("{}, {} rows", super::devices(*devices), count(*rows, *is_estimate));
    if *bytes > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, ", about {}", HumanBytes(*bytes));
    }
    if let Some(duration) = summary.estimated_seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok()) {
        let _ = write!(text, ", about {}", HumanDuration(duration));
    }
    out::line(&text)?;
    if *problem_devices > 0 {
        out::line(&format!("{} with a problem", super::devices(*problem_devices)))?;
    }
    if summary.sample_quarantined > 0 {
        out::line(&format!(
            "{} of {} sampled rows cannot be read by ET and would be quarantined",
            summary.sample_quarantined, summary.sampled
        ))?;
    }
    for Overlap { task_id, state, created_at, device_count, reason, .. } in &summary.overlaps {
        let reason = reason.as_deref().map(|reason| format!(": {}", printable(reason))).unwrap_or_default();
        let (devices, created) = (super::devices(*device_count), time::show(*created_at));
        out::line(&format!("overlaps task {task_id} ({}, of {created}, {devices}){reason}", state.as_str()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use uuid::Uuid;

    use super::*;
    use crate::protocol::http::Bucket;

    #[test]
    fn a_strip_shows_gaps_and_single_rows() {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let (from, to) = (time("2019-01-11T00:00:00Z"), time("2019-01-11T00:09:59Z"));
        let division = Division::of(from, to, chrono_tz::UTC);
        assert_eq!(division.buckets.count, 10);
        let bucket = |minute, rows| Bucket { start: from + TimeDelta::minutes(minute), rows };
        let mut device: DevicePreview = serde_json::from_value(serde_json::json!({
            "deviceId": Uuid::nil(), "name": null, "rows": 0, "isEstimate": false, "first": null, "last": null, "bytes": 0,
            "buckets": [], "sampled": 0, "sampleQuarantined": 0, "estimatedSeconds": null, "problem": null,
        }))
        .unwrap();
        assert_eq!(strip(&device, &division), " ".repeat(10));
        device.buckets = vec![bucket(0, 1), bucket(1, 800), bucket(5, 400), bucket(9, 100)];
        assert_eq!(strip(&device, &division), "▁█   ▄   ▁");
    }
}
