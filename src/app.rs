//! Composes the service: starts its parts in order, and stops them in order.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::Utc;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{self, LogThrottle, LoginThrottle, Readiness, ReceiveBudget, ServerState, TrustedProxies, auth::Tokens},
    config::{self, Config, UnknownFields},
    failpoint,
    protocol::{RequestPolicy, Token},
    queue::{Clock, Queue, QueueOptions},
    replay::ReplayRunner,
    service::{Catalog, Previews, TaskService},
    sink::kafka::{EmbeddedBroker, Kafka},
    source::Source,
    telemetry::{Metrics, Traces},
    worker::Pool,
};

#[cfg(feature = "otlp")]
use crate::{service::trace_finished, telemetry::otlp::Exporter};

/// The number of partitions of the embedded broker's topics.
const EMBEDDED_PARTITIONS: i32 = 3;

/// Where the queue is, for [`Queue::open`].
pub fn queue_options(queue: &config::Queue) -> QueueOptions {
    QueueOptions {
        url: queue.url.reveal().to_owned(),
        read_connections: queue.read_connections,
        dead_after: Duration::from_secs(queue.dead_after_seconds.into()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Runs the service on `listener` until `stop`, then shuts it down gracefully. `broker` is the
/// embedded broker, if the caller has started one. Otherwise it is started here if the
/// configuration asks for one.
///
/// # Errors
/// The service cannot start: the queue cannot be opened, the tables of the source do not match the
/// configuration, or a Kafka property or the tokens file is wrong. An unavailable source or broker is not an error:
/// jobs wait for it.
pub async fn run(
    config: Config,
    token: Token,
    listener: TcpListener,
    broker: Option<Arc<EmbeddedBroker>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    let tokens = Arc::new(Tokens::load(token, config.server.tokens_file.as_deref())?);
    let queue = Queue::open(&queue_options(&config.queue), Clock::System).await?;
    let source = Source::new(&config.iota)?;
    let (kafka, _broker) = connect_kafka(&config, broker).await?;
    startup_checks(&config, &source, &kafka).await?;

    let (traces, exporting) = start_traces(&config, &queue, &metrics)?;
    let draining = CancellationToken::new();
    let tasks = TaskService::new(
        queue.clone(),
        source.clone(),
        kafka.clone(),
        request_policy(&config),
        metrics.clone(),
        draining.clone(),
    )
    .with_traces(traces.clone());
    let services = (&queue, &source, &kafka);
    let state = Arc::new(server_state(&config, tokens, tasks, services, &metrics));
    let pool = Pool {
        queue: queue.clone(),
        replay_runner: ReplayRunner { source, kafka: kafka.clone(), validation: config.validation },
        config: config.worker.clone(),
        metrics,
        traces,
    };

    // Of the shutdown time, 70 % are for rows in flight and 20 % for connections; the rest is for
    // the queue.
    let grace = Duration::from_secs(config.server.shutdown_seconds);
    let (drain_timeout, close_timeout) = (grace.mul_f64(0.7), grace.mul_f64(0.2));
    let address = listener.local_addr().context("the listener has no address")?;
    let mut server_task = tokio::spawn(api::run(Arc::clone(&state), listener, close_timeout));
    let retention_task = tokio::spawn(retention_loop(queue.clone(), config.queue.retention_days, stop.clone()));
    tokio::spawn(Arc::clone(&state.tokens).follow_file(state.close_connections.clone()));
    let mut worker_task = tokio::spawn(pool.run(stop.clone(), drain_timeout));
    let unfinished_jobs = queue.backlog().await.map_or(0, |backlog| backlog.jobs);
    tracing::info!(%address, unfinished_jobs, queue = %config.queue.url, iota = %config.iota.url, kafka = kafka.brokers(), "data-patch is up");

    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        // These tasks end before `stop` only if they panic. The process then exits, since a service
        // that accepts tasks and does not run them is worse than none.
        died = &mut worker_task => anyhow::bail!("the worker pool died: {died:?}"),
        died = &mut server_task => anyhow::bail!("the server died: {died:?}"),
        () = queue.writer_died() => anyhow::bail!(
            "the thread that writes the queue has died (its panic is above): nothing can be stored any more. Accepted tasks are \
             safe; restart the service to continue, and report the panic"
        ),
    }
    tracing::info!(
        "stopping: waiting for rows in flight, then storing checkpoints and releasing leases; no new work is accepted"
    );
    draining.cancel();
    failpoint::hit("stopping");
    worker_task.await.context("the worker pool died")?;
    state.close_connections.cancel();
    server_task.await.context("the server died")?;
    retention_task.await.context("the retention of tasks died")?;
    exporting.stop().await;
    queue.close().await;
    // librdkafka takes a second or two to stop its threads. Everything is acknowledged or stored,
    // so the shutdown does not wait for it.
    tokio::task::spawn_blocking(move || drop((state, kafka)));
    tracing::info!("stopped; unfinished tasks resume at the next start");
    Ok(())
}

/// The tasks that record and send traces, each with what stops it.
#[derive(Default)]
struct Exporting(Vec<(JoinHandle<()>, CancellationToken)>);

impl Exporting {
    /// Sends what is recorded, if that takes no longer than a moment: a receiver that is gone does not
    /// delay the shutdown.
    async fn stop(self) {
        const LAST_EXPORT_TIMEOUT: Duration = Duration::from_secs(2);
        let stopping = async {
            for (task, stop) in self.0 {
                stop.cancel();
                let _ = task.await;
            }
        };
        if tokio::time::timeout(LAST_EXPORT_TIMEOUT, stopping).await.is_err() {
            tracing::warn!("the last traces could not be sent in time and are dropped");
        }
    }
}

/// Starts tracing, if an endpoint is configured.
#[cfg_attr(not(feature = "otlp"), allow(unused_variables, clippy::unnecessary_wraps))]
fn start_traces(config: &Config, queue: &Queue, metrics: &Metrics) -> anyhow::Result<(Traces, Exporting)> {
    #[cfg(feature = "otlp")]
    if !config.telemetry.endpoint.is_empty() {
        let (traces, spans) = Traces::recording(config.telemetry.sample_ratio, metrics.traces.clone());
        let exporter = Exporter::new(&config.telemetry, &queue.owner(), spans, metrics.traces.clone())?;
        let (stop_recording, stop_exporting) = (CancellationToken::new(), CancellationToken::new());
        let recording = tokio::spawn(trace_finished(queue.clone(), traces.clone(), stop_recording.clone()));
        let exporting = tokio::spawn(exporter.run(stop_exporting.clone()));
        // What is recorded last is sent too.
        return Ok((traces, Exporting(vec![(recording, stop_recording), (exporting, stop_exporting)])));
    }
    Ok((Traces::default(), Exporting::default()))
}

/// What requests are checked against.
fn request_policy(config: &Config) -> RequestPolicy {
    RequestPolicy {
        time_zone: config.server.time_zone,
        max_devices: config.server.max_devices,
        default_topic: config.kafka.default_topic.clone(),
        topics: config.kafka.topics.clone(),
        default_rate: config.limits.default_rate,
        max_rate: config.limits.max_rate,
        ignore_unknown_fields: config.server.unknown_fields == UnknownFields::Warn,
    }
}

/// The state that all connections share.
fn server_state(
    config: &Config,
    tokens: Arc<Tokens>,
    tasks: TaskService,
    (queue, source, kafka): (&Queue, &Source, &Kafka),
    metrics: &Metrics,
) -> ServerState {
    ServerState {
        tasks,
        catalog: Catalog::new(source.clone()),
        previews: Previews::new(source.clone(), queue.clone(), config.server.time_zone, config.validation.mode),
        queue: queue.clone(),
        source: source.clone(),
        kafka: kafka.clone(),
        tokens,
        config: config.server.clone(),
        metrics: metrics.clone(),
        login_throttle: LoginThrottle::default(),
        readiness: Readiness::default(),
        proxies: TrustedProxies::new(config.server.trusted_proxies.clone()),
        receive_budget: Arc::new(ReceiveBudget::new(config.server.max_buffered_bytes)),
        refused_connections: LogThrottle::default(),
        close_connections: CancellationToken::new(),
        streams: TaskTracker::new(),
        started_at: (Utc::now(), Instant::now()),
        retention_days: config.queue.retention_days,
    }
}

/// Connects to the configured brokers or to the embedded one, which runs until the returned handle
/// is dropped.
async fn connect_kafka(
    config: &Config,
    broker: Option<Arc<EmbeddedBroker>>,
) -> anyhow::Result<(Kafka, Option<Arc<EmbeddedBroker>>)> {
    if !config.kafka.is_embedded() {
        return Ok((Kafka::new(&config.kafka, &config.kafka.brokers)?, None));
    }
    let broker = match broker {
        Some(broker) => broker,
        None => Arc::new(start_broker(config).await?),
    };
    Ok((Kafka::new(&config.kafka, broker.brokers())?, Some(broker)))
}

async fn start_broker(config: &Config) -> anyhow::Result<EmbeddedBroker> {
    let broker = EmbeddedBroker::start().await?;
    let mut topics = config.kafka.topics.clone();
    if !topics.contains(&config.kafka.default_topic) {
        topics.push(config.kafka.default_topic.clone());
    }
    for topic in &topics {
        broker.create_topic(topic, EMBEDDED_PARTITIONS).await?;
    }
    tracing::warn!(
        brokers = broker.brokers(),
        topics = topics.join(", "),
        "EMBEDDED BROKER: published rows are kept in this process only and are lost when it ends; set kafka.brokers for a real one"
    );
    Ok(broker)
}

/// Logs which dependencies are unavailable, and fails on errors that waiting does not fix.
async fn startup_checks(config: &Config, source: &Source, kafka: &Kafka) -> anyhow::Result<()> {
    /// A healthy source answers much sooner. One that does not answer must not keep the service
    /// from accepting tasks.
    const STARTUP_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
    match tokio::time::timeout(STARTUP_PROBE_TIMEOUT, source.mapping()).await {
        Ok(Ok(mapping)) => {
            for warning in &mapping.warnings {
                tracing::warn!(warning, "the IoTA source");
            }
        }
        Ok(Err(error)) if !error.is_retryable() => return Err(error.into()),
        Ok(Err(error)) => tracing::warn!(%error, "the IoTA source is unavailable; the service starts, and jobs wait for it"),
        Err(_) => tracing::warn!("the IoTA source does not answer yet; the service starts, and jobs wait for it"),
    }
    let (kafka, topic) = (kafka.clone(), config.kafka.default_topic.clone());
    tokio::spawn(async move {
        if let Err(error) = kafka.look_up(&topic).await {
            tracing::warn!(%error, "jobs of the default topic wait or fail until this is fixed");
        }
    });
    Ok(())
}

/// Removes tasks older than the retention period, at once and then every hour.
async fn retention_loop(queue: Queue, retention_days: u32, stop: CancellationToken) {
    let keep_ms = i64::from(retention_days) * 86_400_000;
    let mut hours = tokio::time::interval(Duration::from_hours(1));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hours.tick() => {}
        }
        let pruned = tokio::select! {
            () = stop.cancelled() => return,
            pruned = queue.prune(queue.now_ms() - keep_ms) => pruned,
        };
        match pruned {
            Ok(0) => {}
            Ok(tasks) => {
                tracing::info!(tasks, retention_days, "tasks older than the retention period were removed with their logs");
            }
            Err(error) => tracing::warn!(%error, "old tasks cannot be removed; retrying in an hour"),
        }
    }
}
