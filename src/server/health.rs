//! What operators ask: is it ready, and how is it doing?

use std::{fmt::Display, time::Duration};

use serde::Serialize;
use warp::{Reply, http::StatusCode, reply::Response};

use super::Context;

/// Longer than a part takes to answer that is well.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Parts {
    queue: String,
    store: String,
    kafka: String,
}

/// 200 when queue, store and broker answer, else 503; the body says which does not, and why.
pub async fn ready(context: &Context) -> Response {
    let (queue, store, kafka) =
        tokio::join!(part(context.queue.open_jobs()), part(context.store.ping()), part(context.kafka.ping()));
    let well = [&queue, &store, &kafka].iter().all(|part| *part == "ok");
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    warp::reply::with_status(warp::reply::json(&Parts { queue, store, kafka }), status).into_response()
}

async fn part<T, E: Display>(ask: impl Future<Output = Result<T, E>>) -> String {
    match tokio::time::timeout(PATIENCE, ask).await {
        Ok(Ok(_)) => "ok".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
    }
}

/// Prometheus' text format.
pub async fn metrics(context: &Context) -> Response {
    let open_jobs = tokio::time::timeout(PATIENCE, context.queue.open_jobs()).await.ok().and_then(Result::ok);
    let text = context.metrics.render(open_jobs, context.kafka.in_flight_bytes() as u64);
    warp::reply::with_header(text, "content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8").into_response()
}
