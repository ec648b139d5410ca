//! `data-patch watch`.

use std::process::ExitCode;

use data_patch_client::{HttpClient, HttpError, RetryPolicy, StreamItem};
use tokio::sync::mpsc;

use super::{INTERRUPTED, RemoteArgs, note, print_json, progress::Progress};
use crate::{
    protocol::http::EventView,
    task::{TaskId, TaskState},
};

pub const EXAMPLES: &str = "\
On a terminal it shows a bar for each running device; otherwise a line for each entry of the log. A lost connection is
restored without losing an entry. --json prints the entries as JSON, one a line.

Examples:
  data-patch watch 0190a5b2-7c3e-7d41-9f00-2f1f5f0f8b11
  data-patch watch 0190a5b2-7c3e-7d41-9f00-2f1f5f0f8b11 --after 17 --json | jq .event
  data-patch watch \"$task\" --quiet && echo done

Exit codes: 0 succeeded, 1 the task failed or was cancelled, 2 usage, 3 not reachable, 4 refused, 130 interrupted (the task goes on).";

/// About five minutes, in which a service is upgraded.
const RETRY_ATTEMPTS: u32 = 70;

#[derive(clap::Args)]
pub struct Args {
    /// The task
    #[arg(value_parser = super::task_id)]
    task: TaskId,
    /// Only the log after this entry (its seq)
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    // Fails at once if the service is not there, or does not know the task.
    client.show(args.task).await?;
    follow(&client, args.task, args.after, &args.remote).await
}

/// Prints the log of a task until it is finished; the exit code tells how.
pub async fn follow(client: &HttpClient, task: TaskId, after: u64, remote: &RemoteArgs) -> anyhow::Result<ExitCode> {
    let mut progress = Progress::start(client, task, remote);
    let mut log = read_log(client, task, after);
    let (mut last, mut state) = (after, None);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let item = tokio::select! {
            _ = &mut interrupt => {
                progress.close();
                note(&format!("the task goes on; watch it again with: data-patch watch {task} --after {last}"));
                return Ok(ExitCode::from(INTERRUPTED));
            }
            item = log.recv() => item,
            () = progress.refresh() => continue,
        };
        match item {
            None => break,
            Some(Ok(StreamItem::Event(event))) => {
                (last, state) = (event.seq, event.state);
                print(&event, &mut progress, remote)?;
            }
            Some(Ok(StreamItem::Interrupted(error))) => progress.suspended(|| {
                if !remote.quiet {
                    note(&format!("{error}; connecting again"));
                }
            }),
            Some(Err(error)) => {
                progress.close();
                return Err(error.into());
            }
        }
    }
    progress.close();
    let state = match state {
        Some(state) => state,
        // Everything was read before.
        None => client.show(task).await?.state,
    };
    Ok(if state == TaskState::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the log in a task of its own, so that nothing is lost while something else is awaited.
fn read_log(client: &HttpClient, task: TaskId, after: u64) -> mpsc::Receiver<Result<StreamItem, HttpError>> {
    let (sender, receiver) = mpsc::channel(64);
    let mut events = client.events(task, after, RetryPolicy { max_attempts: RETRY_ATTEMPTS, ..RetryPolicy::default() });
    tokio::spawn(async move {
        while let Some(item) = events.next().await.transpose() {
            let is_last = item.is_err();
            if sender.send(item).await.is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

fn print(event: &EventView, progress: &mut Progress, remote: &RemoteArgs) -> anyhow::Result<()> {
    if remote.json {
        return print_json(event);
    }
    if remote.quiet {
        if event.state.is_some_and(|state| state != TaskState::Succeeded) {
            note(&event.text);
        }
        return Ok(());
    }
    progress.entry(event)
}
