//! `data-patch cancel`, `pause`, `resume` and `rate`.

use std::{num::NonZeroU32, process::ExitCode, str::FromStr};

use super::{RemoteArgs, out, print_json, state};
use crate::{protocol::http::TaskView, task::TaskId};

pub const CANCEL_EXAMPLES: &str = "\
Examples:
  data-patch cancel 0190a5b2-7c3e-7d41-9f00-2f1f5f0f8b11
  data-patch tasks --state running --quiet | xargs -n 1 data-patch cancel

Exit codes: 0 done, 2 usage, 3 not reachable, 4 refused.";

pub const PAUSE_EXAMPLES: &str = "\
Examples:
  data-patch pause 0190a5b2-7c3e-7d41-9f00-2f1f5f0f8b11
  data-patch pause \"$task\" --json | jq .paused

Exit codes: 0 done, 2 usage, 3 not reachable, 4 refused.";

pub const RESUME_EXAMPLES: &str = "\
Examples:
  data-patch resume 0190a5b2-7c3e-7d41-9f00-2f1f5f0f8b11
  data-patch resume \"$task\" && data-patch watch \"$task\"

Exit codes: 0 done, 2 usage, 3 not reachable, 4 refused.";

pub const RATE_EXAMPLES: &str = "\
Examples:
  data-patch rate 0190a5b2-7c3e-7d41-9f00-2f1f5f0f8b11 500
  data-patch rate \"$task\" none                               no limit

Exit codes: 0 done, 2 usage, 3 not reachable, 4 refused.";

#[derive(clap::Args)]
pub struct Args {
    /// The task
    #[arg(value_parser = super::task_id)]
    task: TaskId,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(clap::Args)]
pub struct RateArgs {
    /// The task
    #[arg(value_parser = super::task_id)]
    task: TaskId,
    /// Rows a second, or none for no limit
    #[arg(value_name = "ROWS|none")]
    rate: Rate,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Clone, Copy)]
struct Rate(Option<NonZeroU32>);

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self(None));
        }
        text.parse().map(|rate| Self(Some(rate))).map_err(|_| "it must be a whole number from 1, or none")
    }
}

pub enum Action {
    Cancel,
    Pause,
    Resume,
}

pub async fn run(args: Args, action: Action) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    let task = match action {
        Action::Cancel => client.cancel(args.task).await?,
        Action::Pause => client.pause(args.task).await?,
        Action::Resume => client.resume(args.task).await?,
    };
    print(&task, state(&task), &args.remote)
}

pub async fn rate(args: RateArgs) -> anyhow::Result<ExitCode> {
    let task = args.remote.client()?.set_rate(args.task, args.rate.0.map(NonZeroU32::get)).await?;
    let rate = task.rate.map_or_else(|| "no limit".to_owned(), |rate| format!("at most {rate} rows/s"));
    print(&task, &rate, &args.remote)
}

fn print(task: &TaskView, outcome: &str, remote: &RemoteArgs) -> anyhow::Result<ExitCode> {
    if remote.json {
        print_json(task)?;
    } else if !remote.quiet {
        out::line(&format!("task {}: {outcome}", task.task_id))?;
    }
    Ok(ExitCode::SUCCESS)
}
