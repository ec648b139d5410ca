//! `data-patch show`.

use std::process::ExitCode;

use console::{
    Alignment::{Left, Right},
    style,
};
use data_patch_client::HttpClient;
use serde::Serialize;

use super::{RemoteArgs, out, print_json, state, time};
use crate::{
    cli::table,
    protocol::http::{JobView, MAX_LIMIT, TaskView},
    task::{TaskId, TaskState},
};

pub const EXAMPLES: &str = "\
Examples:
  data-patch show 0190a5b2-7c3e-7d41-9f00-2f1f5f0f8b11
  data-patch show \"$task\" --quiet                            its state only
  data-patch show \"$task\" --json | jq '.jobs[] | select(.state == \"failed\") | .deviceId'

Exit codes: 0 answered, 2 usage, 3 not reachable, 4 refused.";

#[derive(clap::Args)]
pub struct Args {
    /// The task
    #[arg(value_parser = super::task_id)]
    task: TaskId,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// A task with its devices.
#[derive(Serialize)]
struct WithJobs<'a> {
    #[serde(flatten)]
    task: &'a TaskView,
    jobs: &'a [JobView],
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    let task = client.show(args.task).await?;
    if args.remote.quiet {
        out::line(state(&task))?;
        return Ok(ExitCode::SUCCESS);
    }
    let jobs = all_jobs(&client, args.task).await?;
    if args.remote.json {
        print_json(&WithJobs { task: &task, jobs: &jobs })?;
    } else {
        print(&task, &jobs)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn all_jobs(client: &HttpClient, task: TaskId) -> anyhow::Result<Vec<JobView>> {
    let (mut jobs, mut cursor) = (Vec::new(), None);
    loop {
        let page = client.jobs(task, &[], cursor.as_deref(), MAX_LIMIT).await?;
        jobs.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return Ok(jobs);
        }
    }
}

fn print(task: &TaskView, jobs: &[JobView]) -> anyhow::Result<()> {
    let shown_state = match task.state {
        TaskState::Succeeded => style(state(task)).green(),
        TaskState::Failed => style(state(task)).red(),
        _ => style(state(task)),
    };
    let by = task.requested_by.as_ref().map(|by| format!("{} from {}", by.token, by.address));
    let rate = task.rate.map(|rate| format!("{rate} rows/s"));
    let rows = task.rows;
    let facts = [
        ("task", Some(task.task_id.to_string())),
        ("state", Some(shown_state.to_string())),
        ("thing", Some(task.thing_id.to_string())),
        ("topic", Some(task.topic.clone())),
        ("from", Some(time::show(task.from))),
        ("to", Some(time::show(task.to))),
        ("created", Some(time::show(task.created_at))),
        ("finished", task.finished_at.map(time::show)),
        ("expected end", task.estimated_end.map(time::show)),
        ("asked by", by),
        ("reason", task.reason.clone()),
        ("rate", rate),
        ("retry of", task.retry_of.map(|id| id.to_string())),
        ("rows", Some(format!("{} published, {} quarantined, {} counted", rows.published, rows.quarantined, rows.counted))),
    ];
    for (name, value) in facts {
        if let Some(value) = value {
            out::line(&format!("{name:<12}  {value}"))?;
        }
    }
    out::line("")?;
    let rows: Vec<_> = jobs.iter().map(row).collect();
    let head = ["device", "name", "state", "published", "counted", "quarantined", "note"];
    for line in table::aligned(head, [Left, Left, Left, Right, Right, Right, Left], &rows) {
        out::line(&line)?;
    }
    Ok(())
}

fn row(job: &JobView) -> [String; 7] {
    let waiting = job.waiting.as_ref().map(|waiting| format!("tried again at {}", time::show(waiting.next_attempt_at)));
    [
        job.device_id.to_string(),
        job.name.clone().unwrap_or_default(),
        job.state.as_str().to_owned(),
        job.published.to_string(),
        job.counted.map(|rows| rows.to_string()).unwrap_or_default(),
        job.quarantined.to_string(),
        job.reason.clone().or(waiting).unwrap_or_default(),
    ]
}
