//! What watching shows: bars and the log above them on a terminal, otherwise lines.

use std::{
    collections::HashMap,
    io::{IsTerminal, stdout},
    time::Duration,
};

use chrono::{Local, SecondsFormat};
use console::{Term, style};
use data_patch_client::{Event, HttpClient, HttpError};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{RemoteArgs, out};
use crate::{
    protocol::http::{EventView, JobView, MAX_LIMIT, TaskView},
    task::{JobState, TaskId},
};

/// How often the bars are brought up to date.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// Lines of the terminal that are left for the log.
const LOG_LINES: usize = 8;

pub struct Progress {
    /// Only on a terminal.
    bars: Option<Bars>,
}

struct Bars {
    multi: MultiProgress,
    /// The whole task, below its devices.
    total: ProgressBar,
    devices: HashMap<Uuid, ProgressBar>,
    /// At most so many devices have a bar.
    screenful: usize,
    snapshots: mpsc::Receiver<(TaskView, Vec<JobView>)>,
}

impl Progress {
    pub fn start(client: &HttpClient, task: TaskId, remote: &RemoteArgs) -> Self {
        // A terminal that can't move its cursor.
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let has_bars = !remote.json && !remote.quiet && !is_dumb && stdout().is_terminal();
        Self { bars: has_bars.then(|| Bars::new(client.clone(), task)) }
    }

    /// Waits for newer figures, and shows them; for ever if there are no bars.
    pub async fn refresh(&mut self) {
        let Some(bars) = &mut self.bars else { return std::future::pending().await };
        match bars.snapshots.recv().await {
            Some((task, jobs)) => bars.show(&task, &jobs),
            None => std::future::pending().await,
        }
    }

    /// Prints an entry of the log.
    pub fn entry(&mut self, event: &EventView) -> anyhow::Result<()> {
        let Some(bars) = &self.bars else {
            return out::line(&format!("{}  {}", event.time.to_rfc3339_opts(SecondsFormat::Millis, true), event.text));
        };
        // The bars show these.
        if matches!(event.event, Event::Counted { .. } | Event::Published { .. }) {
            return Ok(());
        }
        let time = style(event.time.with_timezone(&Local).format("%H:%M:%S").to_string()).dim();
        let text = match event.state {
            _ if event.is_error => style(&event.text).red(),
            Some(_) => style(&event.text).green(),
            None => style(&event.text),
        };
        bars.multi.suspend(|| out::line(&format!("{time}  {text}")))
    }

    /// Prints something while no bars are shown.
    pub fn suspended(&self, print: impl FnOnce()) {
        match &self.bars {
            Some(bars) => bars.multi.suspend(print),
            None => print(),
        }
    }

    /// Removes the bars.
    pub fn close(&mut self) {
        if let Some(bars) = self.bars.take() {
            for bar in bars.devices.values().chain([&bars.total]) {
                bar.finish_and_clear();
            }
        }
    }
}

impl Bars {
    fn new(client: HttpClient, task: TaskId) -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let total = multi.add(ProgressBar::new(0).with_style(bar_style()).with_prefix("all devices"));
        let screenful = usize::from(Term::stdout().size().0).saturating_sub(LOG_LINES).max(1);
        let (sender, snapshots) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                // While the service is away the log says so.
                if let Ok(snapshot) = snapshot(&client, task).await
                    && sender.send(snapshot).await.is_err()
                {
                    return;
                }
                tokio::time::sleep(REFRESH_INTERVAL).await;
            }
        });
        Self { multi, total, devices: HashMap::new(), screenful, snapshots }
    }

    fn show(&mut self, task: &TaskView, jobs: &[JobView]) {
        self.devices.retain(|device, bar| {
            let is_running = jobs.iter().any(|job| job.device_id == *device);
            if !is_running {
                bar.finish_and_clear();
                self.multi.remove(bar);
            }
            is_running
        });
        for job in jobs {
            if !self.devices.contains_key(&job.device_id) {
                if self.devices.len() >= self.screenful {
                    continue;
                }
                let name = job.name.clone().unwrap_or_else(|| job.device_id.to_string());
                let bar = ProgressBar::new(0).with_style(bar_style()).with_prefix(name);
                self.devices.insert(job.device_id, self.multi.insert_before(&self.total, bar));
            }
            let Some(bar) = self.devices.get(&job.device_id) else { continue };
            bar.set_length(job.counted.unwrap_or(0));
            bar.set_position(job.published + job.quarantined);
            let waiting = job.waiting.as_ref().map(|_| "waiting".to_owned());
            bar.set_message(waiting.unwrap_or_else(|| speed(job.rows_per_second, job.estimated_end)));
        }
        let done = task.devices.succeeded + task.devices.failed + task.devices.cancelled;
        let hidden = (task.devices.running as usize).saturating_sub(self.devices.len());
        let hidden = if hidden > 0 { format!(", {hidden} more running") } else { String::new() };
        self.total.set_prefix(format!("{}: {done} of {}{hidden}", super::state(task), super::devices(task.devices.total)));
        self.total.set_length(task.rows.counted);
        self.total.set_position(task.rows.published + task.rows.quarantined);
        self.total.set_message(speed(task.rows_per_second, task.estimated_end));
    }
}

async fn snapshot(client: &HttpClient, task: TaskId) -> Result<(TaskView, Vec<JobView>), HttpError> {
    let view = client.show(task).await?;
    Ok((view, client.jobs(task, &[JobState::Running], None, MAX_LIMIT).await?.items))
}

fn bar_style() -> ProgressStyle {
    let template = "{prefix:36!} {bar:24} {human_pos} of {human_len}  {msg}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}

/// `120 rows/s, 3m left`.
fn speed(rows_per_second: Option<f64>, estimated_end: Option<chrono::DateTime<chrono::Utc>>) -> String {
    let Some(rate) = rows_per_second else { return String::new() };
    let left = estimated_end.and_then(|end| (end - chrono::Utc::now()).to_std().ok());
    let left = left.map(|left| format!(", {} left", indicatif::HumanDuration(left))).unwrap_or_default();
    format!("{rate:.0} rows/s{left}")
}
