//! `data-patch tasks`.

use std::process::ExitCode;

use console::Alignment::{Left, Right};
use data_patch_client::TaskQuery;
use uuid::Uuid;

use super::{RemoteArgs, out, print_json, state, time};
use crate::{
    cli::table,
    protocol::http::{MAX_LIMIT, TaskView},
    task::TaskState,
};

pub const EXAMPLES: &str = "\
Examples:
  data-patch tasks                                          the newest 20
  data-patch tasks --state failed --state cancelled --since '3 days ago'
  data-patch tasks --device b34299aa-625e-4404-a580-fde1d7cbc3e8 --json | jq -r '.[].reason'
  data-patch tasks --state running --quiet                  their ids only

Exit codes: 0 answered, 2 usage, 3 not reachable, 4 refused.";

#[derive(clap::Args)]
pub struct Args {
    /// Only tasks in this state; may be repeated
    #[arg(long, value_name = "queued|running|succeeded|failed|cancelled")]
    state: Vec<TaskState>,
    /// Only tasks of this thing
    #[arg(long, value_name = "UUID")]
    thing: Option<Uuid>,
    /// Only tasks with this device
    #[arg(long, value_name = "UUID")]
    device: Option<Uuid>,
    /// Only tasks to this Kafka topic
    #[arg(long)]
    topic: Option<String>,
    /// Only tasks created at this time or later
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only tasks created at this time or earlier
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// At most so many tasks
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    let mut query =
        TaskQuery { states: args.state, thing: args.thing, device: args.device, topic: args.topic, ..TaskQuery::default() };
    if let Some(since) = args.since {
        query.since = Some(time::resolve(&client, since).await?);
    }
    if let Some(until) = args.until {
        query.until = Some(time::resolve(&client, until).await?);
    }
    let (mut tasks, mut cursor) = (Vec::new(), None);
    let limit = args.limit as usize;
    loop {
        let missing = (limit - tasks.len()).min(MAX_LIMIT as usize) as u32;
        let page = client.list(&query, cursor.as_deref(), missing).await?;
        tasks.extend(page.items);
        cursor = page.next;
        if cursor.is_none() || tasks.len() >= limit {
            break;
        }
    }
    tasks.truncate(limit);
    print(&tasks, cursor.is_some(), &args.remote)?;
    Ok(ExitCode::SUCCESS)
}

fn print(tasks: &[TaskView], has_more: bool, remote: &RemoteArgs) -> anyhow::Result<()> {
    if remote.json {
        return print_json(&tasks);
    }
    if remote.quiet {
        return tasks.iter().try_for_each(|task| out::line(&task.task_id.to_string()));
    }
    if tasks.is_empty() {
        super::note("no task");
        return Ok(());
    }
    let head = ["task", "state", "created", "devices", "published", "topic", "reason"];
    let rows: Vec<_> = tasks.iter().map(row).collect();
    for line in table::aligned(head, [Left, Left, Left, Right, Right, Left, Left], &rows) {
        out::line(&line)?;
    }
    if has_more {
        super::note("there are more; show them with --limit");
    }
    Ok(())
}

fn row(task: &TaskView) -> [String; 7] {
    let done = task.devices.succeeded + task.devices.failed + task.devices.cancelled;
    [
        task.task_id.to_string(),
        state(task).to_owned(),
        task.created_at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        format!("{done}/{}", task.devices.total),
        task.rows.published.to_string(),
        task.topic.clone(),
        // A reason may have several lines.
        task.reason.as_deref().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "),
    ]
}
