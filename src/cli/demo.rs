//! `data-patch demo`: sends two requests to a service with a sample database and an embedded
//! broker, kills the service in between, and verifies that every row arrived.

mod service;
mod unreadable;
mod verify;
mod view;

use std::{collections::HashMap, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context as _;
use data_patch_client::{Client, Event, PATH, Request, RetryPolicy, Summary, TaskState};
use tokio_util::sync::CancellationToken;

use super::{DemoArgs, out, serve::stop_on_signal};
use crate::{
    api,
    sink::kafka::EmbeddedBroker,
    source::{
        sample::{self, SampleRequest},
        sample_database,
    },
};
use service::{Service, Setup};
use view::View;

const TOKEN: &str = "123456";
/// Timeout of both requests together.
const DEMO_TIMEOUT: Duration = Duration::from_mins(3);

pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    let arrived = tokio::select! {
        arrived = run_until(&args, &stop) => arrived?,
        () = stop.cancelled() => false,
    };
    Ok(if arrived { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the demo, then serves until `stop` unless `args.exit` is set. Returns whether every row has
/// arrived.
async fn run_until(args: &DemoArgs, stop: &CancellationToken) -> anyhow::Result<bool> {
    let view = View::new(args.plain);
    let folder = tempfile::tempdir().context("a temporary folder can't be created")?;
    let database = folder.path().join("iota.db");
    sample_database::write(&database).await.context("the sample database can't be written")?;
    unreadable::add(&database).await.context("the sample database can't be written")?;
    let rows = sample::readings().count();
    view.fact(
        "sample",
        &format!("two things, 18 devices, {rows} readings of 2019-01-11 to 2019-01-21, and three more that ET can't read"),
    )?;
    let round_trip = view.round_trip();
    let broker = EmbeddedBroker::start().await?;
    broker.create_topic(sample::BRIDGE.topic, 3).await?;
    broker.create_topic("anxinyun_data", 3).await?;
    broker.set_round_trip(round_trip).await?;
    view.fact(
        "broker",
        &format!(
            "librdkafka's mock cluster in this process, {}; each answer takes {} ms, and nothing is kept",
            broker.brokers(),
            round_trip.as_millis()
        ),
    )?;
    let listen = free_address(args.listen)?;
    let setup = Setup { listen, token: TOKEN, folder: folder.path(), database: &database, brokers: broker.brokers() };
    let service = setup.start().await?;
    let url = format!("ws://{listen}{PATH}");
    view.fact("service", &format!("{url}, process {}", service.pid))?;

    // The killed service is restarted within seconds.
    let client = Client::new(&url, TOKEN, RetryPolicy { max_attempts: 100, ..RetryPolicy::default() });
    let mut demo = Demo { view, setup, service, client };
    let arrived = tokio::time::timeout(DEMO_TIMEOUT, demo.run_tasks()).await.context("the tasks did not end")??;
    demo.client.close().await;
    next_steps(args.exit, listen)?;
    if !args.exit {
        tokio::select! {
            error = demo.service.died() => return Err(error),
            () = stop.cancelled() => {}
        }
    }
    demo.service.stop().await;
    Ok(arrived)
}

/// The address to serve on, with a port that is free. It is not kept open, since the services of
/// the demo listen on it one after the other.
fn free_address(listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = api::listen(listen)
        .with_context(|| format!("can't listen on {listen}; is a service there? Choose another with --listen 127.0.0.1:0"))?;
    Ok(listener.local_addr()?)
}

struct Demo<'a> {
    view: View,
    setup: Setup<'a>,
    service: Service,
    client: Client,
}

/// How a task ended.
struct Outcome {
    state: Option<TaskState>,
    summary: Summary,
}

impl Demo<'_> {
    async fn run_tasks(&mut self) -> anyhow::Result<bool> {
        let bridge = self.publish("A bridge: seven devices, four days", &sample::BRIDGE, 0, false).await?;
        let unreadable = unreadable::rows().len() as u64;
        let title = "A dam: eleven devices, ten days, rows that ET can't read, and a service that is killed";
        let dam = self.publish(title, &sample::DAM, unreadable, true).await?;
        Ok(bridge && dam)
    }

    /// Submits a request, shows its log, and reads the topic back. With `kill`, the service is
    /// killed when a third of the rows is published.
    async fn publish(&mut self, title: &str, sample: &SampleRequest, unreadable: u64, kill: bool) -> anyhow::Result<bool> {
        let expected = verify::expected(sample)?;
        let rows = expected.iter().map(|(_, docs)| docs.len() as u64).sum::<u64>();
        self.view.begin(title, &message_text(sample), sample.devices)?;
        let outcome = self.watch(&request(sample), rows, kill.then_some(rows / 3)).await?;
        if outcome.state != Some(TaskState::Succeeded) {
            return Ok(false);
        }
        let (brokers, topic) = (self.setup.brokers.to_owned(), sample.topic.to_owned());
        let read = tokio::task::spawn_blocking(move || verify::read_back(&brokers, &topic, expected)).await??;
        self.view.read_back(&read)?;
        Ok(read.is_complete() && outcome.summary.quarantined == unreadable)
    }

    /// Submits a request and shows its log to the end. Kills the service when `kill_at` rows are
    /// published.
    async fn watch(&mut self, request: &Request, rows: u64, mut kill_at: Option<u64>) -> anyhow::Result<Outcome> {
        self.client.submit(request).await?;
        self.view.created()?;
        let (mut by_device, mut outcome) = (HashMap::new(), Outcome { state: None, summary: Summary::default() });
        while let Some(entry) = self.client.next().await? {
            self.view.entry(&entry)?;
            outcome.state = entry.state;
            match entry.event {
                Event::Published { device, published, .. } => {
                    by_device.insert(device, published);
                }
                Event::Finished(summary) => outcome.summary = summary,
                _ => {}
            }
            let published: u64 = by_device.values().sum();
            if entry.state.is_none() && kill_at.is_some_and(|at| published >= at) {
                kill_at = None;
                self.kill_and_restart(published, rows, entry.seq).await?;
            }
        }
        Ok(outcome)
    }

    async fn kill_and_restart(&mut self, published: u64, rows: u64, seq: u64) -> anyhow::Result<()> {
        let pid = self.service.pid;
        self.service.kill().await?;
        self.view.note("kill -9", &format!("process {pid} is killed, with {published} of {rows} rows published"))?;
        self.service = self.setup.start().await?;
        let pid = self.service.pid;
        let text =
            format!("process {pid} continues with the same queue; the client attaches to the task again after entry {seq}");
        self.view.note("service", &text)
    }
}

/// A request of the contract.
fn request(sample: &SampleRequest) -> Request {
    Request::new(sample.thing_id, sample.devices, sample.from, sample.to).topic(sample.topic)
}

/// The request as a message that can be pasted into a WebSocket client.
fn message_text(sample: &SampleRequest) -> String {
    let mut message = serde_json::to_value(request(sample)).unwrap_or_default();
    if let Some(fields) = message.as_object_mut() {
        fields.insert("token".to_owned(), TOKEN.into());
    }
    message.to_string()
}

fn next_steps(exits: bool, listen: SocketAddr) -> anyhow::Result<()> {
    if exits {
        return out::line(
            "\nNext: without --exit, `data-patch demo` keeps serving for requests of your own. With your own source and Kafka:\n\
             \x20 data-patch check --config config.toml\n\
             \x20 data-patch serve --config config.toml --token …",
        );
    }
    out::line(&format!(
        "\nServing until Ctrl-C, with a page at http://{listen}{} (its token is {TOKEN}).\n\
         Next, a request of your own:\n  websocat ws://{listen}{PATH}\nand paste this line:\n{}",
        api::PAGE_PATH,
        message_text(&sample::BRIDGE)
    ))
}
