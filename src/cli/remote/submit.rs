//! `data-patch submit`.

use std::{io::Read, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use data_patch_client::HttpClient;
use uuid::Uuid;

use super::{RemoteArgs, UsageError, out, print_json, time, watch};
use crate::protocol::http::{SubmitRequest, TaskView};

pub const EXAMPLES: &str = "\
Times: RFC 3339, or 2019-01-11 21:03:00 in the service's zone; also \"3 days ago\", \"yesterday 08:00\", \"today\", \"now\".
Without --detach it watches the task until it is finished; Ctrl-C ends the watching only.

Examples (THING and DEVICE are UUIDs):
  data-patch submit THING DEVICE --from '2019-01-11 21:03:00' --to '2019-01-15 14:30:00'
  data-patch submit THING --devices-file devices.txt --from 'yesterday 08:00' --to now --rate 500 --reason 'ticket 4711'
  task=$(data-patch submit THING DEVICE --from '3 days ago' --to now --detach --quiet)
  cat devices.txt | data-patch submit THING --devices-file - --from 2019-01-11 --to 2019-01-12 --json

Exit codes: 0 succeeded, 1 the task failed or was cancelled, 2 usage, 3 not reachable, 4 refused, 130 interrupted (the task goes on).";

#[derive(clap::Args)]
pub struct Args {
    /// The thing that the devices are mounted on
    thing: Uuid,
    /// The devices
    #[arg(required_unless_present = "devices_file")]
    devices: Vec<Uuid>,
    /// Start of the range, inclusive
    #[arg(long, value_name = "TIME")]
    from: String,
    /// End of the range, inclusive
    #[arg(long, value_name = "TIME")]
    to: String,
    /// The Kafka topic; without it the service's default one
    #[arg(long)]
    topic: Option<String>,
    /// More devices: a file with an id on each line, or - for standard input; # begins a comment
    #[arg(long, value_name = "FILE|-")]
    devices_file: Option<PathBuf>,
    /// Most rows a second, for the whole task
    #[arg(long, value_name = "ROWS")]
    rate: Option<u32>,
    /// Why, for the colleague who sees the task later
    #[arg(long)]
    reason: Option<String>,
    /// The same id again creates nothing, and shows the task that it created
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Print the task's id and end, without watching it
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut devices = args.devices;
    if let Some(path) = &args.devices_file {
        devices.extend(read_devices(path)?);
    }
    if devices.is_empty() {
        return Err(UsageError("no device: name one, or a file with some".to_owned()).into());
    }
    let client = args.remote.client()?;
    let request = SubmitRequest {
        src: "iota".to_owned(),
        thing_id: args.thing,
        devices,
        from: time::resolve(&client, args.from).await?,
        to: time::resolve(&client, args.to).await?,
        topic: args.topic,
        // With an id, the request can be sent again if its answer is lost.
        request_id: Some(args.request_id.unwrap_or_else(|| Uuid::new_v4().to_string())),
        reason: args.reason,
        rate: args.rate,
    };
    let task = client.submit(&request).await?;
    created(&client, &task, args.detach, &args.remote).await
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

fn read_devices(path: &PathBuf) -> anyhow::Result<Vec<Uuid>> {
    let name = path.display();
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.with_context(|| UsageError(format!("the devices file {name} cannot be read")))?;
    parse_devices(&text).map_err(|line| UsageError(format!("line {line} of the devices file {name} is no UUID")).into())
}

/// The ids of a file; the number of the first line that is none.
fn parse_devices(text: &str) -> Result<Vec<Uuid>, usize> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.split('#').next().unwrap_or_default().trim()));
    lines.filter(|(_, line)| !line.is_empty()).map(|(n, line)| Uuid::try_parse(line).map_err(|_| n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_file_has_an_id_on_each_line_and_comments() {
        let id = Uuid::from_u128(7);
        assert_eq!(parse_devices(&format!("# two\n\n{id}\r\n  {id} # again\n")), Ok(vec![id, id]));
        assert_eq!(parse_devices(&format!("{id}\n\nx")), Err(3));
        assert_eq!(parse_devices(""), Ok(vec![]));
    }
}
