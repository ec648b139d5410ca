//! The endpoints for operators: readiness and metrics.

use std::{
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{sync::watch, time::timeout};
use warp::{Reply, http::StatusCode, reply::Response};

use super::{
    ServerState,
    exposition::{AllMetrics, Exposition, Snapshot},
};

/// How long the result of a check is reused.
const CHECK_TTL: Duration = Duration::from_secs(1);
/// How long a request waits for running checks; then it is answered from earlier results.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);
/// A check that runs for longer means that the dependency does not answer.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for the source, whose check may wait for a connection that is reading a page.
const SOURCE_CHECK_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Report {
    queue: String,
    source: String,
    kafka: String,
}

/// The state of the service's dependencies. They are checked in the background, at most once a
/// second, and only on request.
#[derive(Debug, Default)]
pub struct Readiness {
    queue: Dependency,
    source: Dependency,
    kafka: Dependency,
}

/// Starts the checks, and waits for them for a short time.
async fn check_dependencies(state: &ServerState) {
    let Readiness { queue, source, kafka } = &state.readiness;
    let (queue_handle, source_handle, kafka_handle) = (state.queue.clone(), state.source.clone(), state.kafka.clone());
    queue.check(async move { queue_handle.probe().await });
    source.check(async move { source_handle.ping().await });
    kafka.check(async move { kafka_handle.ping().await });
    let _ = timeout(ANSWER_TIMEOUT, async { tokio::join!(queue.checked(), source.checked(), kafka.checked()) }).await;
}

/// Responds with 200 if the queue is writable and source and broker answer, otherwise with 503. The
/// body has the state of each.
pub async fn ready(state: &ServerState) -> Response {
    check_dependencies(state).await;
    let Readiness { queue, source, kafka } = &state.readiness;
    let report = Report {
        queue: queue.describe(HEALTH_CHECK_TIMEOUT),
        source: source.describe(SOURCE_CHECK_TIMEOUT),
        kafka: kafka.describe(HEALTH_CHECK_TIMEOUT),
    };
    let all_ok = [&report.queue, &report.source, &report.kafka].iter().all(|status| *status == "ok");
    let status = if all_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    warp::reply::with_status(warp::reply::json(&report), status).into_response()
}

/// The state of one dependency.
#[derive(Debug, Default)]
struct Dependency {
    state: Arc<watch::Sender<CheckState>>,
}

#[derive(Debug, Default)]
struct CheckState {
    /// The end and the result of the last check.
    last: Option<(Instant, Result<(), String>)>,
    /// The start of the running check.
    checking: Option<Instant>,
}

impl Dependency {
    /// Starts a check, unless one is running or has just ended.
    fn check<E: Display>(&self, check: impl Future<Output = Result<(), E>> + Send + 'static) {
        let starts = self.state.send_if_modified(|state| {
            let is_fresh = state.last.as_ref().is_some_and(|(at, _)| at.elapsed() < CHECK_TTL);
            let starts = state.checking.is_none() && !is_fresh;
            if starts {
                state.checking = Some(Instant::now());
            }
            starts
        });
        if starts {
            let state = Arc::clone(&self.state);
            tokio::spawn(async move {
                let result = check.await.map_err(|error| error.to_string());
                state.send_modify(|state| *state = CheckState { last: Some((Instant::now(), result)), checking: None });
            });
        }
    }

    /// Waits until no check is running.
    async fn checked(&self) {
        // The sender is a field of this struct, so it exists.
        let _ = self.state.subscribe().wait_for(|state| state.checking.is_none()).await;
    }

    /// Whether it works, or `None` before the first result.
    fn is_up(&self, max_duration: Duration) -> Option<bool> {
        let state = self.state.borrow();
        if state.checking.is_some_and(|since| since.elapsed() >= max_duration) {
            return Some(false);
        }
        state.last.as_ref().map(|(_, result)| result.is_ok())
    }

    /// "ok", or the error and its age.
    fn describe(&self, max_duration: Duration) -> String {
        let state = self.state.borrow();
        match (&state.last, state.checking.map(|since| since.elapsed())) {
            (_, Some(elapsed)) if elapsed >= max_duration => format!("no answer for {} s", elapsed.as_secs()),
            (None, _) => "the first check is running; ask again".to_owned(),
            (Some((_, Ok(()))), _) => "ok".to_owned(),
            (Some((at, Err(error))), _) if at.elapsed() >= 2 * CHECK_TTL => format!("{error} ({} s ago)", at.elapsed().as_secs()),
            (Some((_, Err(error))), _) => error.clone(),
        }
    }
}

/// Responds with the metrics, in the format that the scraper accepts.
pub async fn metrics(state: &ServerState, accept: Option<&str>) -> Response {
    let ServerState { queue, source, kafka, readiness, .. } = state;
    let (backlog, queue_bytes, ()) =
        tokio::join!(timeout(HEALTH_CHECK_TIMEOUT, queue.backlog()), queue.disk_bytes(), check_dependencies(state));
    // If the queue does not answer, its gauges are omitted and not reported as 0.
    let backlog = backlog.ok().and_then(Result::ok);
    let now = Snapshot {
        jobs_unfinished: backlog.map(|backlog| backlog.jobs),
        oldest_waiting_job_seconds: backlog.map(|backlog| backlog.oldest_due.as_secs_f64()),
        queue_bytes,
        in_flight_bytes: kafka.in_flight_bytes() as u64,
        dependencies: [
            ("queue", readiness.queue.is_up(HEALTH_CHECK_TIMEOUT)),
            ("source", readiness.source.is_up(SOURCE_CHECK_TIMEOUT)),
            ("kafka", readiness.kafka.is_up(HEALTH_CHECK_TIMEOUT)),
        ],
    };
    let all =
        AllMetrics { service: &state.metrics, queue: queue.metrics(), source: source.metrics(), kafka: kafka.metrics(), now };
    let exposition = Exposition::accepted(accept);
    warp::reply::with_header(all.render(exposition), "content-type", exposition.content_type()).into_response()
}
