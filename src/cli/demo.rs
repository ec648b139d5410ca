//! `data-patch demo`: everything embedded, one real request, and the proof that it arrived.

mod client;
mod verify;

use std::{io::IsTerminal, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::{DemoArgs, out, serve::stop_on_signal};
use crate::{
    api, app,
    config::{self, Overrides},
    protocol::{PATH, Token},
    sink::kafka::EmbeddedBroker,
    source::{sample, sample_store},
};

const TOKEN: &str = "123456";

pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let store = folder.path().join("iota.db");
    let request = sample::BRIDGE;
    step("sample store", "two things, 18 devices, readings of 2019-01-11 to 2019-01-21")?;
    sample_store::write(&store).await.context("the sample store can't be written")?;
    let broker = Arc::new(EmbeddedBroker::start().await?);
    broker.create_topic(request.topic, 3).await?;
    broker.create_topic("anxinyun_data", 3).await?;
    step("broker", &format!("librdkafka's mock cluster in this process, {}: what it is told is gone with it", broker.brokers()))?;

    let mut overrides = Overrides::default();
    overrides
        .set_flag("--listen", &["server", "listen"], args.listen.to_string())
        .set(&["queue", "url"], format!("sqlite://{}", folder.path().join("queue.db").display()))
        .set(&["iota", "url"], format!("sqlite://{}", store.display()))
        .set(&["kafka", "brokers"], "embedded")
        .set(&["log", "level"], "warn");
    // Nothing of the caller's environment: the demo is the same everywhere.
    let config = config::load(None, std::iter::empty(), overrides)?;
    super::log(&config)?;
    let listener = api::listen(args.listen).with_context(|| {
        format!("can't listen on {}; is a service there? Choose another with --listen 127.0.0.1:0", args.listen)
    })?;
    let url = format!("ws://{}{PATH}", listener.local_addr()?);
    step("service", &url)?;
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    let service = tokio::spawn(app::run(config, Token::new(TOKEN), listener, Some(Arc::clone(&broker)), stop.clone()));

    let shown = tokio::select! {
        shown = show(&url, &request, broker.brokers()) => Some(shown),
        () = stop.cancelled() => None,
    };
    let arrived = match shown {
        Some(shown) => shown?,
        None => false,
    };
    if !args.exit && !stop.is_cancelled() {
        out::line(&format!(
            "\nServing until Ctrl-C. Another request to paste into a WebSocket client:\n{}",
            client::request(&sample::DAM, TOKEN)
        ))?;
        stop.cancelled().await;
    }
    stop.cancel();
    service.await.context("the service died")??;
    Ok(if arrived { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Submits the sample request, prints its log, and reads the topic back. `true`: every row has arrived.
async fn show(url: &str, request: &sample::SampleRequest, brokers: &str) -> anyhow::Result<bool> {
    let text = client::request(request, TOKEN);
    step("request", &text)?;
    let expected = verify::expected(request)?;
    let bar = progress_bar(expected.len() as u64);
    let end =
        tokio::time::timeout(Duration::from_mins(2), client::watch(url, &text, &bar)).await.context("the task did not end")?;
    bar.finish_and_clear();
    if let Some(log) = end? {
        out::line(&format!("the task did not succeed: {log}"))?;
        return Ok(false);
    }
    let topic = request.topic.to_owned();
    let brokers = brokers.to_owned();
    let read = tokio::task::spawn_blocking(move || verify::read_back(&brokers, &topic, expected)).await??;
    step("read back", &read.to_string())?;
    Ok(read.is_complete())
}

fn progress_bar(rows: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} rows, {per_sec}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(rows), target).with_style(style)
}

fn step(name: &str, text: &str) -> anyhow::Result<()> {
    out::line(&format!("{name:>12}  {text}"))
}
