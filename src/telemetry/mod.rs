//! Logs (tracing) and figures (Prometheus).

mod exposition;
mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

pub use exposition::{AllMetrics, Exposition, Snapshot};
pub use metrics::{Durations, Errors, GaugeGuard, KafkaMetrics, Metrics, ProducerGauges, StoreMetrics, count_error};

/// Starts logging to standard error.
///
/// # Errors
/// `[log] level` is no filter.
pub fn init(log: &Log) -> anyhow::Result<()> {
    let mut filter = EnvFilter::try_new(&log.level)
        .map_err(|error| anyhow::anyhow!("log.level: {:?} is no level or filter ({error}); \"info\" is one", log.level))?;
    // What these say at finer levels is the messages themselves, token and all; warp calls a client that leaves an error.
    for quiet in ["tungstenite=info", "tokio_tungstenite=info", "warp=off", "hyper=info", "hyper_util=info", "sqlx=info"] {
        filter = filter.add_directive(quiet.parse()?);
    }
    // Said for each broker and each try; jobs say it once, with what it means for them. Name them in log.level to see it.
    for noisy in ["librdkafka", "rdkafka"] {
        if !log.level.contains(noisy) {
            filter = filter.add_directive(format!("{noisy}=off").parse()?);
        }
    }
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => {
            let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).with_target(false);
            registry.with(layer).try_init()?;
        }
        LogFormat::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(std::io::stderr);
            registry.with(layer).try_init()?;
        }
    }
    Ok(())
}
