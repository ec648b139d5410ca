//! `data-patch queue`.

use std::{
    convert::Infallible,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::out;
use crate::{
    config::{self, SecretUrl},
    queue::{self, Clock, CopyPhase, CopyProgress, CopyReport, QueueOptions},
};

#[derive(clap::Args)]
pub struct CopyArgs {
    /// The queue to copy, as in queue.url
    #[arg(long, value_name = "URL", value_parser = any_url)]
    from: SecretUrl,
    /// The queue to copy to; it has no tasks, or does not exist
    #[arg(long, value_name = "URL", value_parser = any_url)]
    to: SecretUrl,
    /// Print what was copied as one JSON object
    #[arg(long)]
    json: bool,
}

/// Whether it is the URL of a queue is checked later: clap's error would show it with its password.
#[expect(clippy::unnecessary_wraps, reason = "clap calls it")]
fn any_url(text: &str) -> Result<SecretUrl, Infallible> {
    Ok(SecretUrl::new(text))
}

/// Copies a queue, and prints what was copied.
pub async fn copy(CopyArgs { from, to, json }: CopyArgs) -> anyhow::Result<ExitCode> {
    let (from_options, to_options) = (options("--from", &from)?, options("--to", &to)?);
    let (mut display, begin) = (Display::new(), Instant::now());
    let copied = queue::copy(&from_options, &to_options, &Clock::System, |progress| display.show(progress)).await;
    display.bar.finish_and_clear();
    // The message of an error has its sources already.
    let report = copied.map_err(|error| anyhow::anyhow!("{error}"))?;
    if json {
        out::line(&serde_json::to_string(&report)?)?;
    } else {
        print_report(&report, &to, begin.elapsed())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn options(name: &str, url: &SecretUrl) -> anyhow::Result<QueueOptions> {
    config::check_queue_url(url).map_err(|problem| anyhow::anyhow!("{name} {url}: {problem}"))?;
    Ok(QueueOptions::new(url.reveal()))
}

fn print_report(report: &CopyReport, to: &SecretUrl, took: Duration) -> anyhow::Result<()> {
    let CopyReport { tasks, jobs, open_jobs, leases_ended, log_entries, quarantined_rows, replaced_texts } = report;
    out::line(&format!(
        "copied in {:.1} s: {tasks} tasks, {jobs} jobs, {log_entries} log entries, {quarantined_rows} quarantined rows",
        took.as_secs_f64()
    ))?;
    out::line("both queues were read again and compared row by row: they are equal")?;
    out::line(&format!("{open_jobs} jobs are not finished and go on where they were, {leases_ended} of them were running"))?;
    if *replaced_texts > 0 {
        out::line(&format!("{replaced_texts} names or reasons have U+FFFD for NUL, which PostgreSQL does not store"))?;
    }
    out::line(&format!("next: set queue.url to {to}, and start the service"))
}

/// The progress on standard error: a bar on a terminal, otherwise a line each second.
struct Display {
    bar: ProgressBar,
    is_terminal: bool,
    last_line: Instant,
}

impl Display {
    fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos} of {len} rows, {per_sec}, {eta} left") {
            bar.set_style(style);
        }
        Self { bar, is_terminal, last_line: Instant::now() }
    }

    fn show(&mut self, CopyProgress { phase, rows, total }: CopyProgress) {
        const LINE_INTERVAL: Duration = Duration::from_secs(1);
        let verb = match phase {
            CopyPhase::Copying => "copying",
            CopyPhase::Comparing => "comparing",
        };
        if rows < self.bar.position() {
            // The second phase begins: its speed is another one.
            self.bar.reset();
        }
        self.bar.set_length(total);
        self.bar.set_message(verb);
        self.bar.set_position(rows);
        if !self.is_terminal && self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            // Nobody has to read it.
            let _ = writeln!(io::stderr(), "{verb}: {rows} of {total} rows");
        }
    }
}
