//! Converts librdkafka's statistics to metrics.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rdkafka::statistics::{Broker, Statistics};

use super::throttle::Throttle;
use crate::telemetry::{KafkaMetrics, ProducerGauges};

/// The interval of statistics, unless the operator sets `statistics.interval.ms`.
pub(super) const INTERVAL_MS: &str = "10000";

/// One producer's part of the metrics. Its gauges end with it; its counts remain.
pub(super) struct ProducerStatistics {
    metrics: KafkaMetrics,
    gauges: Arc<ProducerGauges>,
    throttle: Throttle,
    reported: Mutex<Counts>,
}

/// The counts of a producer since its start.
#[derive(Default)]
struct Counts {
    requests: u64,
    request_errors: u64,
    request_retries: u64,
    request_timeouts: u64,
    sent_bytes: u64,
    disconnects: u64,
}

impl Counts {
    fn of(statistics: &Statistics) -> Self {
        let sum = |of: fn(&Broker) -> u64| statistics.brokers.values().map(of).sum();
        Self {
            requests: sum(|broker| broker.tx),
            request_errors: sum(|broker| broker.txerrs),
            request_retries: sum(|broker| broker.txretries),
            request_timeouts: sum(|broker| broker.req_timeouts),
            sent_bytes: sum(|broker| broker.txbytes),
            disconnects: sum(|broker| broker.disconnects.and_then(|times| times.try_into().ok()).unwrap_or_default()),
        }
    }
}

fn seconds(value: i64, unit: fn(u64) -> Duration) -> f64 {
    unit(value.try_into().unwrap_or(0)).as_secs_f64()
}

impl ProducerStatistics {
    pub fn new(metrics: KafkaMetrics, throttle: Throttle) -> Self {
        let gauges = metrics.producer();
        Self { metrics, gauges, throttle, reported: Mutex::default() }
    }

    pub fn take(&self, statistics: &Statistics) {
        let now = Counts::of(statistics);
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let KafkaMetrics { requests, request_errors, request_retries, request_timeouts, sent_bytes, disconnects, .. } =
            &self.metrics;
        for (counter, now, previous) in [
            (requests, now.requests, reported.requests),
            (request_errors, now.request_errors, reported.request_errors),
            (request_retries, now.request_retries, reported.request_retries),
            (request_timeouts, now.request_timeouts, reported.request_timeouts),
            (sent_bytes, now.sent_bytes, reported.sent_bytes),
            (disconnects, now.disconnects, reported.disconnects),
        ] {
            // The counts of a broker that has left the cluster are missing, so the sum can
            // decrease.
            counter.inc_by(now.saturating_sub(previous));
        }
        *reported = now;
        // librdkafka's internal threads appear as brokers without a host, and bootstrap servers
        // without an id.
        let brokers = || statistics.brokers.values().filter(|broker| broker.nodeid >= 0);
        // In milliseconds, unlike other times, which are in microseconds.
        let throttle = |broker: &Broker| broker.throttle.as_ref().map(|window| seconds(window.max, Duration::from_millis));
        let throttle_seconds = brokers().filter_map(throttle).fold(0.0, f64::max);
        self.throttle.record(Duration::from_secs_f64(throttle_seconds));
        self.gauges.update(|state| {
            state.queued_messages = statistics.msg_cnt;
            state.queued_bytes = statistics.msg_size;
            state.round_trip_seconds = brokers()
                .filter_map(|broker| {
                    let answered = broker.rtt.as_ref().filter(|window| window.cnt > 0);
                    let latest = answered.map(|window| seconds(window.avg, Duration::from_micros));
                    let previous = || state.round_trip_seconds.get(&broker.nodename).copied();
                    Some((broker.nodename.clone(), latest.or_else(previous)?))
                })
                .collect();
            state.throttle_seconds = throttle_seconds;
        });
    }
}
