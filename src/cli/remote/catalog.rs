//! `data-patch things` and `data-patch devices`.

use std::process::ExitCode;

use console::Alignment::{Left, Right};
use uuid::Uuid;

use super::{RemoteArgs, out, print_json};
use crate::{
    cli::table,
    protocol::http::{DeviceView, MAX_LIMIT, Page, ThingView},
};

pub const THINGS_EXAMPLES: &str = "\
Examples:
  data-patch things                                         the first 100, by name
  data-patch things 大桥                                    those with 大桥 in their name
  data-patch things --json | jq -r '.[].thingId'

Exit codes: 0 answered, 2 usage, 3 not reachable, 4 refused.";

pub const DEVICES_EXAMPLES: &str = "\
Examples (THING is a UUID, as things prints it):
  data-patch devices THING                                  the first 100, by name
  data-patch devices THING 静力水准仪                       those with 静力水准仪 in their name
  data-patch devices THING --limit 10000 --quiet > devices.txt

Exit codes: 0 answered, 2 usage, 3 not reachable, 4 refused.";

#[derive(clap::Args)]
pub struct ThingsArgs {
    #[command(flatten)]
    list: ListArgs,
}

#[derive(clap::Args)]
pub struct DevicesArgs {
    /// The thing that the devices are mounted on
    thing: Uuid,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(clap::Args)]
struct ListArgs {
    /// Only those whose name or id contains this text
    query: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub async fn things(args: ThingsArgs) -> anyhow::Result<ExitCode> {
    let ListArgs { query, limit, remote } = args.list;
    let client = remote.client()?;
    let mut list = List::new(limit);
    while let Some(size) = list.next_page() {
        list.add(client.things(query.as_deref(), list.cursor.as_deref(), size).await?);
    }
    let row = |thing: &ThingView| [name(thing.name.as_ref()), thing.devices.to_string(), thing.thing_id.to_string()];
    list.print(&remote, "thing", |thing| thing.thing_id, (["name", "devices", "thing"], [Left, Right, Left]), row)
}

pub async fn devices(args: DevicesArgs) -> anyhow::Result<ExitCode> {
    let ListArgs { query, limit, remote } = args.list;
    let client = remote.client()?;
    let mut list = List::new(limit);
    while let Some(size) = list.next_page() {
        list.add(client.devices(args.thing, query.as_deref(), list.cursor.as_deref(), size).await?);
    }
    let row = |device: &DeviceView| [name(device.name.as_ref()), device.device_id.to_string()];
    list.print(&remote, "device", |device| device.device_id, (["name", "device"], [Left, Left]), row)
}

fn name(name: Option<&String>) -> String {
    name.map_or_else(|| "-".to_owned(), |name| super::printable(name))
}

/// A list that is read in pages.
struct List<T> {
    items: Vec<T>,
    limit: usize,
    cursor: Option<String>,
    has_more: bool,
}

impl<T: serde::Serialize> List<T> {
    fn new(limit: u32) -> Self {
        Self { items: Vec::new(), limit: limit as usize, cursor: None, has_more: true }
    }

    /// The size of the page that is to be read; `None` if nothing is missing.
    fn next_page(&self) -> Option<u32> {
        let missing = self.limit.saturating_sub(self.items.len()).min(MAX_LIMIT as usize) as u32;
        (self.has_more && missing > 0).then_some(missing)
    }

    fn add(&mut self, page: Page<T>) {
        self.items.extend(page.items);
        self.has_more = page.next.is_some();
        self.cursor = page.next;
    }

    fn print<const N: usize>(
        &self,
        remote: &RemoteArgs,
        kind: &str,
        id: impl Fn(&T) -> Uuid,
        (head, alignments): ([&str; N], [console::Alignment; N]),
        row: impl Fn(&T) -> [String; N],
    ) -> anyhow::Result<ExitCode> {
        if remote.json {
            print_json(&self.items)?;
        } else if remote.quiet {
            self.items.iter().try_for_each(|item| out::line(&id(item).to_string()))?;
        } else if self.items.is_empty() {
            super::note(&format!("no {kind}"));
        } else {
            let rows: Vec<_> = self.items.iter().map(row).collect();
            table::aligned(head, alignments, &rows).iter().try_for_each(|line| out::line(line))?;
        }
        if self.has_more && !remote.json && !remote.quiet {
            super::note("there are more; show them with --limit");
        }
        Ok(ExitCode::SUCCESS)
    }
}
