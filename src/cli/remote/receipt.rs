//! `data-patch receipt` and `data-patch verify`.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::bail;
use console::{
    Alignment::{Left, Right},
    style,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{RemoteArgs, note, out, print_json, time};
use crate::{
    cli::table,
    protocol::http::{DeviceReceipt, DeviceVerdict, Receipt, Verdict, VerifyLine, VerifySummary},
    task::TaskId,
};

pub const RECEIPT_EXAMPLES: &str = "\
The checksum of a device is the sum modulo 2^128 of XXH3-128 over the header data-patch-row, a zero byte and the document of
each of its rows, so that anybody can compute it from the topic.

Examples:
  data-patch receipt 0190a5b2-7c3e-7d41-9f00-2f1f5f0f8b11
  data-patch receipt \"$task\" --json > receipt.json

Exit codes: 0 answered, 2 usage, 3 not reachable, 4 refused.";

pub const VERIFY_EXAMPLES: &str = "\
Reads the topic between the offsets of the receipt and compares every row. --json prints the lines of the answer as they
come: progress, then a verdict for each device, then a summary.

Examples:
  data-patch verify 0190a5b2-7c3e-7d41-9f00-2f1f5f0f8b11
  data-patch verify \"$task\" --json | jq 'select(.kind == \"device\" and .verdict != \"complete\")'

Exit codes: 0 the topic has every row, 1 it differs or cannot tell any more, 2 usage, 3 not reachable, 4 refused.";

#[derive(clap::Args)]
pub struct Args {
    /// The task
    #[arg(value_parser = super::task_id)]
    task: TaskId,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub async fn receipt(args: Args) -> anyhow::Result<ExitCode> {
    let receipt = args.remote.client()?.receipt(args.task).await?;
    if args.remote.json {
        print_json(&receipt)?;
    } else if args.remote.quiet {
        for device in &receipt.devices {
            out::line(&format!("{} {}", device.device_id, device.checksum.as_deref().unwrap_or("-")))?;
        }
    } else {
        print_receipt(&receipt)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_receipt(Receipt { task, is_final, devices }: &Receipt) -> anyhow::Result<()> {
    let by = task.requested_by.as_ref().map(|by| format!("{} from {}", by.token, by.address));
    let state = if *is_final { task.state.as_str().to_owned() } else { format!("{} (so far)", task.state.as_str()) };
    let facts = [
        ("task", Some(task.task_id.to_string())),
        ("state", Some(state)),
        ("topic", Some(task.topic.clone())),
        ("range", Some(format!("{} to {}", time::show(task.from), time::show(task.to)))),
        ("created", Some(time::show(task.created_at))),
        ("finished", task.finished_at.map(time::show)),
        ("asked by", by),
        ("reason", task.reason.clone()),
    ];
    for (name, value) in facts {
        if let Some(value) = value {
            out::line(&format!("{name:<12}  {value}"))?;
        }
    }
    out::line("")?;
    let rows: Vec<_> = devices.iter().map(receipt_row).collect();
    let head = ["device", "name", "published", "quarantined", "repeated", "first", "last", "partition: offsets", "checksum"];
    let alignments = [Left, Left, Right, Right, Right, Left, Left, Left, Left];
    for line in table::aligned(head, alignments, &rows) {
        out::line(&line)?;
    }
    Ok(())
}

fn receipt_row(device: &DeviceReceipt) -> [String; 9] {
    let time = |row: &Option<crate::protocol::http::RowPosition>| row.as_ref().map(|row| row.time.clone()).unwrap_or_default();
    let ranges =
        device.partitions.iter().map(|range| format!("{}: {} to {}", range.partition, range.first_offset, range.last_offset));
    let at_least = if device.repeated_is_exact { "" } else { "≥ " };
    [
        device.device_id.to_string(),
        device.name.clone().unwrap_or_default(),
        device.published.to_string(),
        device.quarantined.to_string(),
        format!("{at_least}{}", device.repeated),
        time(&device.first_row),
        time(&device.last_row),
        ranges.collect::<Vec<_>>().join(", "),
        device.checksum.clone().unwrap_or_else(|| "unknown".to_owned()),
    ]
}

pub async fn verify(args: Args) -> anyhow::Result<ExitCode> {
    let RemoteArgs { json, quiet, .. } = args.remote;
    let mut lines = args.remote.client()?.verify(args.task).await?;
    let bar = progress_bar(!json && !quiet);
    let mut differing = Vec::new();
    while let Some(line) = lines.next().await? {
        if json {
            print_json(&line)?;
        }
        match line {
            VerifyLine::Progress(progress) => {
                bar.set_length(progress.total);
                bar.set_position(progress.read);
            }
            VerifyLine::Device(device) if device.verdict == Verdict::Complete => {}
            VerifyLine::Device(device) => differing.push(device),
            VerifyLine::Error(error) => {
                bar.finish_and_clear();
                bail!(error.detail);
            }
            VerifyLine::Summary(summary) => {
                bar.finish_and_clear();
                if quiet {
                    out::line(verdict(summary.verdict))?;
                } else if !json {
                    print_verdict(&differing, &summary)?;
                }
                return Ok(if summary.verdict == Verdict::Complete { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
        }
    }
    bail!("the answer has no summary: the service may have stopped. Verify the task again");
}

fn progress_bar(is_wanted: bool) -> ProgressBar {
    let target =
        if is_wanted && std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("reading the topic {bar:30} {pos} of {len} messages, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

fn print_verdict(differing: &[DeviceVerdict], summary: &VerifySummary) -> anyhow::Result<()> {
    for device in differing {
        let name = device.name.as_deref().unwrap_or_default();
        out::line(&format!("{}  {} {name}", style(verdict(device.verdict)).red(), device.device_id))?;
        let named = [
            ("missing", &device.missing, device.missing_count),
            ("altered", &device.altered, device.altered_count),
            ("unexpected", &device.unexpected, device.unexpected_count),
        ];
        for (what, rows, count) in named {
            for row in rows {
                out::line(&format!("    {what}  {row}"))?;
            }
            if count > rows.len() as u64 {
                out::line(&format!("    {what}  and {} more", count - rows.len() as u64))?;
            }
        }
        if let Some(reason) = &device.reason {
            out::line(&format!("    {reason}"))?;
        }
    }
    let VerifySummary { devices, complete_devices, published, found, repeated, took_ms, .. } = summary;
    let line = format!(
        "{complete_devices} of {devices} devices are complete; {found} of {published} rows are in the topic, with \
         {repeated} further copies ({:.1} s)",
        std::time::Duration::from_millis(*took_ms).as_secs_f64()
    );
    let line = match summary.verdict {
        Verdict::Complete => style(line).green(),
        Verdict::Differs | Verdict::Unknown => style(line).red(),
    };
    out::line(&line.to_string())?;
    if summary.verdict == Verdict::Differs {
        note(
            "publish what is missing again with a new task; rows that are already there are repeated, which consumers can tell by data-patch-row",
        );
    }
    Ok(())
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Complete => "complete",
        Verdict::Differs => "differs",
        Verdict::Unknown => "unknown",
    }
}
