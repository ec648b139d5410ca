//! The one place where everything is put together, started in order, and stopped in order.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, LogThrottle, LoginThrottle, Readiness, ReceiveBudget, ServerState, TrustedProxies},
    config::{Config, UnknownFields},
    failpoint,
    protocol::{RequestPolicy, Token},
    queue::{Clock, Queue},
    replay::ReplayRunner,
    service::TaskService,
    sink::kafka::{EmbeddedBroker, Kafka},
    source::Source,
    telemetry::Metrics,
    worker::Pool,
};

/// Partitions of the embedded broker's topics.
const EMBEDDED_PARTITIONS: i32 = 3;

/// Runs the service on `listener` until `stop`, then stops it gently. `broker` is the embedded one, where the caller has
/// made it; else it is made here, if the configuration says so.
///
/// # Errors
/// What keeps it from starting: a queue that can't be opened, a store whose tables do not fit, a wrong Kafka property. A
/// store or broker that is away does not: work waits for it.
pub async fn run(
    config: Config,
    token: Token,
    listener: TcpListener,
    broker: Option<Arc<EmbeddedBroker>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    let queue = Queue::open(&config.queue.options(), Clock::System).await?;
    let store = Source::new(&config.iota)?;
    let (kafka, _broker) = connect_kafka(&config, broker).await?;
    startup_checks(&config, &store, &kafka).await?;

    let draining = CancellationToken::new();
    let context = Arc::new(ServerState {
        tasks: TaskService::new(queue.clone(), metrics.clone(), draining.clone()),
        queue: queue.clone(),
        store: store.clone(),
        kafka: kafka.clone(),
        rules: RequestPolicy {
            token,
            time_zone: config.server.time_zone,
            max_devices: config.server.max_devices,
            default_topic: config.kafka.default_topic.clone(),
            topics: config.kafka.topics.clone(),
            ignore_unknown_fields: config.server.unknown_fields == UnknownFields::Warn,
        },
        config: config.server.clone(),
        metrics: metrics.clone(),
        guesses: LoginThrottle::default(),
        readiness: Readiness::default(),
        proxies: TrustedProxies::new(config.server.trusted_proxies.clone()),
        budget: Arc::new(ReceiveBudget::new(config.server.max_buffered_bytes)),
        full: LogThrottle::default(),
        draining,
        close_connections: CancellationToken::new(),
    });
    let pool = Pool {
        queue: queue.clone(),
        patcher: ReplayRunner { store, kafka: kafka.clone(), validation: config.validation },
        config: config.worker.clone(),
        metrics,
    };

    // Of the time for stopping most is for rows in flight, the rest for connections and the queue.
    let grace = Duration::from_secs(config.server.shutdown_seconds);
    let (drain, patience) = (grace.mul_f64(0.7), grace.mul_f64(0.2));
    let address = listener.local_addr().context("the listener has no address")?;
    let mut server_task = tokio::spawn(api::run(Arc::clone(&context), listener, patience));
    let retention_task = tokio::spawn(retention_loop(queue.clone(), config.queue.retention_days, stop.clone()));
    let mut worker_task = tokio::spawn(pool.run(stop.clone(), drain));
    let unfinished_jobs = queue.backlog().await.map_or(0, |backlog| backlog.jobs);
    tracing::info!(%address, unfinished_jobs, queue = %config.queue.url, iota = %config.iota.url, kafka = kafka.brokers(), "data-patch is up");

    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        // Neither ends before it is asked to, unless it dies; a service that takes tasks and does nothing is worse than none.
        died = &mut worker_task => anyhow::bail!("the worker pool died: {died:?}"),
        died = &mut server_task => anyhow::bail!("the server died: {died:?}"),
        () = queue.writer_died() => anyhow::bail!(
            "the thread that writes the queue has died (its panic is above): nothing can be stored any more. What was accepted is \
             safe; start the service again and it goes on, and report the panic"
        ),
    }
    tracing::info!("stopping: no new work is taken in; rows in flight are waited for, cursors stored, leases handed back");
    context.draining.cancel();
    failpoint::hit("stopping");
    worker_task.await.context("the worker pool died")?;
    context.close_connections.cancel();
    server_task.await.context("the server died")?;
    retention_task.await.context("the retention of tasks died")?;
    queue.close().await;
    // librdkafka takes a second or two to end its threads; everything is acknowledged or stored, so nobody waits.
    tokio::task::spawn_blocking(move || drop((context, kafka)));
    tracing::info!("stopped; unfinished tasks go on at the next start");
    Ok(())
}

/// The brokers; the embedded one lives as long as what is returned.
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
        "EMBEDDED BROKER: what is published stays in this process and is gone with it; set kafka.brokers for a real one"
    );
    Ok(broker)
}

/// Says what is away, and refuses what can't get better.
async fn startup_checks(config: &Config, store: &Source, kafka: &Kafka) -> anyhow::Result<()> {
    /// A store that is well answers much sooner; one that does not must not keep the service from taking tasks in.
    const STARTUP_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
    match tokio::time::timeout(STARTUP_PROBE_TIMEOUT, store.mapping()).await {
        Ok(Ok(mapping)) => {
            for advice in &mapping.warnings {
                tracing::warn!(advice, "the IoTA store");
            }
        }
        Ok(Err(error)) if !error.is_retryable() => return Err(error.into()),
        Ok(Err(error)) => tracing::warn!(%error, "the service starts all the same; jobs wait until the store is back"),
        Err(_) => tracing::warn!("the IoTA store does not answer yet; the service starts all the same, and jobs wait for it"),
    }
    let (kafka, topic) = (kafka.clone(), config.kafka.default_topic.clone());
    tokio::spawn(async move {
        if let Err(error) = kafka.look_up(&topic).await {
            tracing::warn!(%error, "jobs of the default topic wait or fail until that is mended");
        }
    });
    Ok(())
}

/// Removes tasks that ended long ago, now and every hour.
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
            Ok(tasks) => tracing::info!(tasks, retention_days, "tasks that ended long ago were removed with their logs"),
            Err(error) => tracing::warn!(%error, "old tasks can't be removed; trying again in an hour"),
        }
    }
}
