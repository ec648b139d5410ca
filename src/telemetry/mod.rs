//! Logs (tracing) and metrics (Prometheus). `api/exposition.rs` renders the metrics.

mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod process;
pub mod traces;

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

pub use metrics::{
    DependencyLabel, Durations, Errors, GaugeGuard, KafkaMetrics, Metrics, OUTCOMES, OutcomeLabel, ProducerGauges, SourceMetrics,
    TraceMetrics, count_error, float_gauge, integer_gauge,
};
pub use traces::Traces;

/// Starts logging to standard error.
///
/// # Errors
/// `[log] level` is not a valid filter.
pub fn init(log: &Log) -> anyhow::Result<()> {
    let mut filter = EnvFilter::try_new(&log.level).map_err(|error| {
        anyhow::anyhow!("log.level: {:?} is not a level or filter ({error}); an example is \"info\"", log.level)
    })?;
    // At finer levels these crates log whole messages, including the token; warp logs an error when
    // a client disconnects.
    for directive in ["tungstenite=info", "tokio_tungstenite=info", "warp=off", "hyper=info", "hyper_util=info", "sqlx=info"] {
        filter = filter.add_directive(directive.parse()?);
    }
    // librdkafka logs each attempt on each broker; jobs log the outage once, with its effect on
    // them. Naming the crate in `log.level` enables its logs.
    for target in ["librdkafka", "rdkafka"] {
        if !log.level.contains(target) {
            filter = filter.add_directive(format!("{target}=off").parse()?);
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
