//! What `submit` and `preview` ask for.

use std::{io::Read, path::PathBuf};

use anyhow::Context as _;
use data_patch_client::HttpClient;
use uuid::Uuid;

use super::{UsageError, time};
use crate::protocol::http::{MAX_LIMIT, SubmitRequest};

#[derive(clap::Args)]
pub struct RequestArgs {
    /// The thing that the devices are mounted on
    thing: Uuid,
    /// The devices
    #[arg(required_unless_present_any = ["devices_file", "all"])]
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
    /// All devices of the thing
    #[arg(long, conflicts_with_all = ["devices", "devices_file"])]
    all: bool,
    /// More devices: a file with an id on each line, or - for standard input; # begins a comment
    #[arg(long, value_name = "FILE|-")]
    devices_file: Option<PathBuf>,
    /// Most rows a second, for the whole task
    #[arg(long, value_name = "ROWS")]
    rate: Option<u32>,
    /// Why, for the colleague who sees the task later
    #[arg(long)]
    reason: Option<String>,
}

impl RequestArgs {
    /// Reads what is local: before the token is asked for.
    pub fn read(mut self) -> anyhow::Result<Self> {
        if let Some(path) = &self.devices_file {
            self.devices.extend(read_devices(path)?);
        }
        if self.devices.is_empty() && !self.all {
            return Err(UsageError("no device: name one, or a file with some, or --all".to_owned()).into());
        }
        Ok(self)
    }

    /// The request; asks the service for the devices of the thing, and for its time zone, if they are
    /// needed.
    pub async fn resolve(self, client: &HttpClient) -> anyhow::Result<SubmitRequest> {
        let devices = if self.all { all_devices(client, self.thing).await? } else { self.devices };
        Ok(SubmitRequest {
            src: "iota".to_owned(),
            thing_id: self.thing,
            devices,
            from: time::resolve(client, self.from).await?,
            to: time::resolve(client, self.to).await?,
            topic: self.topic,
            request_id: None,
            reason: self.reason,
            rate: self.rate,
        })
    }
}

async fn all_devices(client: &HttpClient, thing: Uuid) -> anyhow::Result<Vec<Uuid>> {
    let (mut devices, mut cursor) = (Vec::new(), None);
    loop {
        let page = client.devices(thing, None, cursor.as_deref(), MAX_LIMIT).await?;
        devices.extend(page.items.iter().map(|device| device.device_id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    if devices.is_empty() {
        return Err(UsageError(format!("thing {thing} has no devices; data-patch things lists those that have")).into());
    }
    Ok(devices)
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
