//! The demo's output: progress bars and tables on a terminal, otherwise the lines of the log.

use std::{
    collections::HashMap,
    io::{IsTerminal, stdout},
    time::Duration,
};

use console::style;
use data_patch_client::{Event, LogLine};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use uuid::Uuid;

use super::verify::ReadBack;
use crate::{
    cli::{out, table},
    source::sample,
};

pub struct View {
    /// The progress bars of the current task; only on a terminal.
    bars: Option<Bars>,
    /// Tasks shown so far.
    tasks: u32,
}

#[derive(Default)]
struct Bars {
    multi: MultiProgress,
    devices: HashMap<Uuid, DeviceBar>,
}

struct DeviceBar {
    bar: ProgressBar,
    quarantined: u64,
    /// Its message is about an outage that may be over.
    is_waiting: bool,
}

impl View {
    pub fn new(plain: bool) -> Self {
        // A terminal that can't move its cursor.
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let bars = (!plain && !is_dumb && stdout().is_terminal()).then(Bars::default);
        Self { bars, tasks: 0 }
    }

    /// The broker's response time: longer if somebody watches the bars.
    pub fn round_trip(&self) -> Duration {
        Duration::from_millis(if self.bars.is_some() { 150 } else { 20 })
    }

    /// Prints a line about a component.
    pub fn fact(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let name = format!("{name:>12}");
        match &self.bars {
            None => out::line(&format!("{name}  {text}")),
            Some(_) => out::line(&format!("{}  {text}", style(name).dim())),
        }
    }

    /// Prints a line while the bars of a task are shown.
    pub fn note(&self, name: &str, text: &str) -> anyhow::Result<()> {
        match &self.bars {
            None => self.fact(name, text),
            Some(bars) => {
                let name = style(format!("{name:>12}")).red().bold();
                bars.multi.suspend(|| out::line(&format!("{name}  {text}")))
            }
        }
    }

    /// Starts the output of a task that is about to be submitted.
    pub fn begin(&mut self, title: &str, request: &str, devices: &[Uuid]) -> anyhow::Result<()> {
        self.tasks += 1;
        let Some(bars) = &mut self.bars else { return self.fact("request", request) };
        out::line(&format!("\n{}", style(format!("{}  {title}", self.tasks)).bold()))?;
        bars.multi = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        bars.devices = devices.iter().map(|device| (*device, DeviceBar::new(*device, &bars.multi))).collect();
        Ok(())
    }

    pub fn created(&self) -> anyhow::Result<()> {
        if self.bars.is_some() { Ok(()) } else { self.fact("log", "task created.") }
    }

    pub fn entry(&mut self, entry: &LogLine) -> anyhow::Result<()> {
        let Some(bars) = &mut self.bars else {
            return self.fact(if entry.event.is_error() { "ERROR" } else { "log" }, &entry.text);
        };
        if let Event::Finished(_) = &entry.event {
            for device in bars.devices.values() {
                device.bar.abandon();
            }
            let text = if entry.event.is_error() { style(&entry.text).red() } else { style(&entry.text).green() };
            // The first line break ends the last bar.
            return out::line(&format!("\n  {text}"));
        }
        if let Some(device) = device_of(&entry.event).and_then(|device| bars.devices.get_mut(&device)) {
            device.entry(&entry.event);
        }
        Ok(())
    }

    /// Prints what was found in the topic.
    pub fn read_back(&mut self, read: &ReadBack) -> anyhow::Result<()> {
        if self.bars.is_none() {
            return self.fact("read back", &read.to_string());
        }
        let rows: Vec<_> = read
            .devices
            .iter()
            .map(|device| {
                let verdict = if device.is_complete { style("yes").green() } else { style("NO").red().bold() };
                [
                    name(device.device).to_owned(),
                    device.expected.to_string(),
                    device.arrived.to_string(),
                    device.repeats.to_string(),
                    verdict.to_string(),
                ]
            })
            .collect();
        let head = ["read back from the topic", "expected", "arrived", "repeats", "byte for byte, in order"];
        out::line("")?;
        for line in table::lines(head, &rows) {
            out::line(&format!("  {line}"))?;
        }
        out::line(&format!("  {}", style(read.to_string()).bold()))
    }
}

impl DeviceBar {
    fn new(device: Uuid, multi: &MultiProgress) -> Self {
        let bar = multi.add(ProgressBar::new(0).with_prefix(name(device)).with_style(bar_style("cyan")));
        // Draws the bar before the device's first log entry.
        bar.tick();
        Self { bar, quarantined: 0, is_waiting: false }
    }

    fn entry(&mut self, event: &Event) {
        match event {
            Event::Counted { total, .. } => self.bar.set_length(*total),
            Event::Published { published, total, .. } => {
                self.bar.set_length(*total);
                self.bar.set_position(published + self.quarantined);
                if std::mem::take(&mut self.is_waiting) {
                    self.bar.set_message("");
                }
            }
            Event::Quarantined { rows, first, .. } => {
                self.quarantined += rows;
                self.bar.inc(*rows);
                let reason = first.first().map(|row| row.reason.as_str()).unwrap_or_default();
                self.bar.set_message(format!("{} quarantined: {reason}", self.quarantined));
            }
            Event::TakenOver { published, .. } => self.bar.set_message(format!("continues after row {published}")),
            Event::Waiting { reason, .. } => {
                self.is_waiting = true;
                self.bar.set_message(reason.clone());
            }
            Event::Failed { reason, .. } => self.bar.set_message(reason.clone()),
            _ => {}
        }
        if self.bar.length().is_some_and(|rows| rows > 0 && self.bar.position() >= rows) {
            self.bar.set_style(bar_style("green"));
            self.bar.tick();
        }
    }
}

fn bar_style(colour: &str) -> ProgressStyle {
    let template = format!("  {{prefix:14}} {{bar:32.{colour}/dim}} {{pos:>5}} of {{len:<5}} {{wide_msg:.yellow}}");
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}

fn device_of(event: &Event) -> Option<Uuid> {
    match event {
        Event::Counted { device, .. }
        | Event::Published { device, .. }
        | Event::Quarantined { device, .. }
        | Event::Waiting { device, .. }
        | Event::TakenOver { device, .. } => Some(*device),
        Event::Failed { device, .. } => *device,
        _ => None,
    }
}

/// The name of a device of the sample.
fn name(device: Uuid) -> &'static str {
    sample::devices().iter().find(|known| known.id == device).map_or("-", |known| known.name)
}
