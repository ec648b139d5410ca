//! `data-patch demo`: sample store and broker in this process, the service beside it, two real requests, and the proof that
//! every row arrived, although the service is killed on the way.

mod service;
mod table;
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
        sample_store,
    },
};
use service::{Service, Setup};
use view::View;

const TOKEN: &str = "123456";
/// All that is shown; reached only when something is wrong.
const DEMO_TIMEOUT: Duration = Duration::from_mins(3);

pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    let arrived = tokio::select! {
        arrived = play(&args, &stop) => arrived?,
        // What runs ends with what is dropped here.
        () = stop.cancelled() => false,
    };
    Ok(if arrived { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows everything, and serves on until `stop` unless it is to exit. `true`: every row has arrived.
async fn play(args: &DemoArgs, stop: &CancellationToken) -> anyhow::Result<bool> {
    let view = View::new(args.plain);
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let store = folder.path().join("iota.db");
    sample_store::write(&store).await.context("the sample store can't be written")?;
    unreadable::add(&store).await.context("the sample store can't be written")?;
    let rows = sample::readings().count();
    view.fact(
        "sample store",
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
    let setup = Setup { listen, token: TOKEN, folder: folder.path(), store: &store, brokers: broker.brokers() };
    let service = setup.start().await?;
    let url = format!("ws://{listen}{PATH}");
    view.fact("service", &format!("{url}, process {}", service.pid))?;

    // The service that is killed is back within seconds.
    let client = Client::new(&url, TOKEN, RetryPolicy { max_attempts: 100, ..RetryPolicy::default() });
    let mut demo = Demo { view, setup, service, client };
    let arrived = tokio::time::timeout(DEMO_TIMEOUT, demo.show()).await.context("the tasks did not end")??;
    demo.client.close().await;
    next_steps(args.exit, &url)?;
    if !args.exit {
        tokio::select! {
            died = demo.service.died() => return Err(died),
            () = stop.cancelled() => {}
        }
    }
    demo.service.stop().await;
    Ok(arrived)
}

/// The address to serve on, with a port that is free now. It is not held: each service of the demo listens on it in turn.
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
    async fn show(&mut self) -> anyhow::Result<bool> {
        let bridge = self.publish("A bridge: seven devices, four days", &sample::BRIDGE, 0, None).await?;
        let spoilt = unreadable::rows().len() as u64;
        let title = "A dam: eleven devices, ten days, rows that ET can't read, and a service that is killed";
        let dam = self.publish(title, &sample::DAM, spoilt, Some(3)).await?;
        Ok(bridge && dam)
    }

    /// Submits a request, shows its log, and reads the topic back. The service is killed when one of `kill_at` parts of the
    /// rows is published.
    async fn publish(
        &mut self,
        title: &str,
        sample: &SampleRequest,
        unreadable: u64,
        kill_at: Option<u64>,
    ) -> anyhow::Result<bool> {
        let expected = verify::expected(sample)?;
        let rows = expected.iter().map(|(_, docs)| docs.len() as u64).sum::<u64>();
        self.view.begin(title, &paste(sample), sample.devices)?;
        let outcome = self.watch(&request(sample), rows, kill_at.map(|parts| rows / parts)).await?;
        if outcome.state != Some(TaskState::Succeeded) {
            return Ok(false);
        }
        let (brokers, topic) = (self.setup.brokers.to_owned(), sample.topic.to_owned());
        let read = tokio::task::spawn_blocking(move || verify::read_back(&brokers, &topic, expected)).await??;
        self.view.read_back(&read)?;
        Ok(read.is_complete() && outcome.summary.quarantined == unreadable)
    }

    /// Submits, and shows the log to its end.
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
        self.view.note("kill -9", &format!("process {pid} is gone, with {published} of {rows} rows published"))?;
        self.service = self.setup.start().await?;
        let pid = self.service.pid;
        let text = format!("process {pid} goes on with the same queue; the client attaches to the task again after entry {seq}");
        self.view.note("service", &text)
    }
}

/// A request of the contract.
fn request(sample: &SampleRequest) -> Request {
    Request::new(sample.thing_id, sample.devices, sample.from, sample.to).topic(sample.topic)
}

/// The same as one message, to be pasted into any WebSocket client.
fn paste(sample: &SampleRequest) -> String {
    let mut message = serde_json::to_value(request(sample)).unwrap_or_default();
    if let Some(fields) = message.as_object_mut() {
        fields.insert("token".to_owned(), TOKEN.into());
    }
    message.to_string()
}

fn next_steps(is_over: bool, url: &str) -> anyhow::Result<()> {
    if is_over {
        return out::line(
            "\nNext: `data-patch demo` serves on, for requests of your own. With your own store and Kafka:\n\
             \x20 data-patch check --config config.toml\n\
             \x20 data-patch serve --config config.toml --token …",
        );
    }
    out::line(&format!(
        "\nServing until Ctrl-C. Next, a request of your own:\n  websocat {url}\nand paste this line:\n{}",
        paste(&sample::BRIDGE)
    ))
}
