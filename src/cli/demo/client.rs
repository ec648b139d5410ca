//! A client as anybody would write it: one message sent, the log read until the task is done.

use std::collections::HashMap;

use anyhow::Context as _;
use futures_util::{SinkExt, StreamExt};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{cli::out, source::sample::SampleRequest, task::Event};

/// The request as it is sent.
pub fn request(sample: &SampleRequest, token: &str) -> String {
    json!({
        "src": "iota",
        "token": token,
        "topic": sample.topic,
        "thingId": sample.thing_id,
        "devices": sample.devices,
        "from": sample.from,
        "to": sample.to,
    })
    .to_string()
}

/// Submits, and prints the log as it comes. Returns the last line, if the task did not succeed.
pub async fn watch(url: &str, request: &str, bar: &ProgressBar) -> anyhow::Result<Option<String>> {
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.with_context(|| format!("{url} can't be reached"))?;
    socket.send(Message::text(request)).await?;
    let mut published = HashMap::new();
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        let reply: Value = serde_json::from_str(&text)?;
        let payload = reply.get("payload").cloned().unwrap_or_default();
        let line = payload.get("msg").or_else(|| payload.get("ex")).and_then(Value::as_str).unwrap_or(&text);
        let kind = if reply.get("res") == Some(&json!("ok")) { "log" } else { "ERROR" };
        bar.suspend(|| out::line(&format!("{kind:>12}  {line}")))?;
        let event = payload.get("event").cloned().and_then(|event| serde_json::from_value(event).ok());
        if let Some(Event::Published { device, published: rows, .. }) = event {
            published.insert(device, rows);
            bar.set_position(published.values().sum());
        }
        if let Some(state) = payload.get("state").and_then(Value::as_str) {
            let _ = socket.close(None).await;
            return Ok((state != "succeeded").then(|| line.to_owned()));
        }
        anyhow::ensure!(payload.get("taskId").is_some(), "the request was refused: {line}");
    }
    anyhow::bail!("the connection ended before the task did")
}
