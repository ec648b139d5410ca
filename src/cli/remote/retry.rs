//! `data-patch retry`.

use std::process::ExitCode;

use uuid::Uuid;

use super::{RemoteArgs, submit};
use crate::{protocol::http::RetryDevices, task::TaskId};

pub const EXAMPLES: &str = "\
Without --detach it watches the new task until it is finished.

Examples:
  data-patch retry 0190a5b2-7c3e-7d41-9f00-2f1f5f0f8b11       the devices that failed or were cancelled
  data-patch retry \"$task\" --all --detach
  data-patch retry \"$task\" b34299aa-625e-4404-a580-fde1d7cbc3e8

Exit codes: 0 succeeded, 1 the task failed or was cancelled, 2 usage, 3 not reachable, 4 refused, 130 interrupted (the task goes on).";

#[derive(clap::Args)]
pub struct Args {
    /// The finished task
    #[arg(value_parser = super::task_id)]
    task: TaskId,
    /// Only these devices of it
    #[arg(conflicts_with = "all")]
    devices: Vec<Uuid>,
    /// All of its devices
    #[arg(long)]
    all: bool,
    /// Print the new task's id and end, without watching it
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    let devices = match (args.all, args.devices) {
        (true, _) => RetryDevices::All,
        (false, devices) if devices.is_empty() => RetryDevices::Failed,
        (false, devices) => RetryDevices::List(devices),
    };
    let task = client.retry(args.task, devices).await?;
    submit::created(&client, &task, args.detach, &args.remote).await
}
