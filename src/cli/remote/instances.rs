//! `data-patch instances` and `data-patch drain`.

use std::process::ExitCode;

use console::Alignment::{Left, Right};
use uuid::Uuid;

use super::{RemoteArgs, out, print_json};
use crate::{cli::table, protocol::http::InstanceView};

pub const INSTANCES_EXAMPLES: &str = "\
Examples:
  data-patch instances
  data-patch instances --json | jq -r '.[] | select(.jobs > 0).instance'

Exit codes: 0 answered, 2 usage, 3 not reachable, 4 refused.";

pub const DRAIN_EXAMPLES: &str = "\
Examples (INSTANCE is a UUID, as instances prints it):
  data-patch drain INSTANCE                  its jobs continue on the other instances
  data-patch drain INSTANCE --undo           it takes jobs again

With the queue in a file, only the instance that answers can be drained; its jobs wait.

Exit codes: 0 done, 2 usage, 3 not reachable, 4 refused.";

#[derive(clap::Args)]
pub struct InstancesArgs {
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(clap::Args)]
pub struct DrainArgs {
    /// The instance
    instance: Uuid,
    /// Let it take jobs again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub async fn instances(args: InstancesArgs) -> anyhow::Result<ExitCode> {
    let RemoteArgs { json, quiet, .. } = args.remote;
    let instances = args.remote.client()?.service().await?.instances;
    if json {
        print_json(&instances)?;
    } else if quiet {
        instances.iter().try_for_each(|instance| out::line(&instance.instance))?;
    } else {
        print(&instances)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn drain(args: DrainArgs) -> anyhow::Result<ExitCode> {
    let DrainArgs { instance, undo, remote } = args;
    let view = remote.client()?.drain(instance, !undo).await?;
    if remote.json {
        print_json(&view)?;
    } else if !remote.quiet {
        out::line(&if undo {
            format!("instance {instance} takes jobs again")
        } else {
            format!("instance {instance} hands its {} running jobs back and takes no others; it can be ended now", view.jobs)
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(instances: &[InstanceView]) -> anyhow::Result<()> {
    let rows: Vec<_> = instances.iter().map(row).collect();
    let head = ["instance", "host", "pid", "version", "jobs", "tasks", "state"];
    for line in table::aligned(head, [Left, Left, Right, Left, Right, Right, Left], &rows) {
        out::line(&line)?;
    }
    Ok(())
}

fn row(view: &InstanceView) -> [String; 7] {
    /// It says that it is alive every second.
    const SILENT_MS: u64 = 2_500;
    let unknown = || "-".to_owned();
    let state = match view.silent_ms {
        Some(silent) if silent > SILENT_MS => format!("silent for {} s", silent / 1_000),
        _ if view.draining => "draining".to_owned(),
        _ => "works".to_owned(),
    };
    [
        view.instance.clone(),
        view.host.as_ref().map_or_else(unknown, |host| super::printable(host)),
        view.pid.map_or_else(unknown, |pid| pid.to_string()),
        view.version.as_ref().map_or_else(unknown, |version| super::printable(version)),
        view.jobs.to_string(),
        view.tasks.to_string(),
        state,
    ]
}
