//! `data-patch submit`.

use std::{
    io::{IsTerminal as _, stdin, stdout},
    process::ExitCode,
};

use console::Term;
use data_patch_client::{HttpClient, HttpError};
use uuid::Uuid;

use super::{RemoteArgs, out, preview, print_json, request::RequestArgs, time, watch};
use crate::protocol::http::{SubmitRequest, TaskView};

pub const EXAMPLES: &str = "\
Times: RFC 3339, or 2019-01-11 21:03:00 in the service's zone; also \"3 days ago\", \"yesterday 08:00\", \"today\", \"now\".
On a terminal it shows first what would be published, and asks; --yes does not ask.
Without --detach it watches the task until it is finished; Ctrl-C ends the watching only.

Examples (THING and DEVICE are UUIDs):
  data-patch submit THING DEVICE --from '2019-01-11 21:03:00' --to '2019-01-15 14:30:00'
  data-patch submit THING --all --from yesterday --to today --yes
  data-patch submit THING --devices-file devices.txt --from 'yesterday 08:00' --to now --rate 500 --reason 'ticket 4711'
  task=$(data-patch submit THING DEVICE --from '3 days ago' --to now --detach --quiet)
  cat devices.txt | data-patch submit THING --devices-file - --from 2019-01-11 --to 2019-01-12 --json

Exit codes: 0 succeeded, 1 the task failed or was cancelled, 2 usage, 3 not reachable, 4 refused, 130 interrupted (the task goes on).";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    request: RequestArgs,
    /// The same id again creates nothing, and shows the task that it created
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Print the task's id and end, without watching it
    #[arg(long)]
    detach: bool,
    /// Do not ask, also on a terminal
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let request = args.request.read()?;
    let client = args.remote.client()?;
    let mut request = request.resolve(&client).await?;
    // With an id, the request can be sent again if its answer is lost.
    request.request_id = Some(args.request_id.unwrap_or_else(|| Uuid::new_v4().to_string()));
    let is_attended = stdin().is_terminal() && stdout().is_terminal() && !args.remote.json && !args.remote.quiet;
    if is_attended && !args.yes && !is_confirmed(&client, &request).await? {
        super::note("nothing is submitted");
        return Ok(ExitCode::FAILURE);
    }
    let task = client.submit(&request).await?;
    created(&client, &task, args.detach, &args.remote).await
}

/// Shows what would be published, and asks whether it should be.
async fn is_confirmed(client: &HttpClient, request: &SubmitRequest) -> anyhow::Result<bool> {
    if let Err(error) = preview::strips(client, request).await {
        match error.downcast_ref() {
            // An older service, or one whose source is unavailable: a task would wait for it.
            Some(HttpError::Refused(problem)) if problem.code == "unknown_path" => {}
            Some(HttpError::Unreachable { .. }) => super::note(&format!("no preview: {error}")),
            _ => return Err(error),
        }
    }
    let terminal = Term::stderr();
    let topic = request.topic.as_deref().unwrap_or("the default topic");
    terminal.write_str(&format!("publish to {topic}? [y/N] "))?;
    let answer = terminal.read_line()?.trim().to_lowercase();
    Ok(["y", "yes", "是"].contains(&answer.as_str()))
}

/// Prints a task that was created, and watches it.
pub async fn created(client: &HttpClient, task: &TaskView, detach: bool, remote: &RemoteArgs) -> anyhow::Result<ExitCode> {
    let TaskView { task_id, devices, topic, from, to, .. } = task;
    if remote.json {
        print_json(task)?;
    } else if remote.quiet {
        out::line(&task_id.to_string())?;
    } else {
        let devices = super::devices(devices.total);
        out::line(&format!("task {task_id}: {devices}, from {} to {}, topic {topic}", time::show(*from), time::show(*to)))?;
        if detach {
            super::note(&format!("watch it with: data-patch watch {task_id}"));
        }
    }
    if detach {
        return Ok(ExitCode::SUCCESS);
    }
    watch::follow(client, *task_id, 0, remote).await
}
