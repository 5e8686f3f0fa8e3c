//! Running workflows and timing them on one monotonic clock: the client's.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt};
use haltline_client::Client;
use haltline_common::types::{
    Names,
    definition::Definition,
    event::{Event, EventType},
    json,
    record::Status,
};
use serde_json::Value;

/// A workflow that takes longer counts as an error.
const LIMIT: Duration = Duration::from_secs(120);
/// Errors kept for the report.
const ERRORS_MAX: usize = 20;

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Seconds in all.
    pub seconds: f64,
    /// From submission to the answer, each workflow.
    pub latency_ms: Vec<f64>,
    /// From submission to the first `node_started`.
    pub first_node_ms: Vec<f64>,
    /// From a node's result to the next node's `node_started`.
    pub step_ms: Vec<f64>,
    /// What went wrong.
    pub errors: Vec<String>,
}

async fn once(client: &Client, definition: &Definition) -> Result<(), String> {
    let run = client.execute(definition, Value::Null, None);
    match tokio::time::timeout(LIMIT, run).await {
        Ok(Ok(outcome)) if outcome.status == Status::Completed => Ok(()),
        Ok(Ok(outcome)) => Err(format!("{} ended {}: {:?}", outcome.execution_id, outcome.status.as_str(), outcome.error)),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("a workflow did not end within {LIMIT:?}")),
    }
}

/// What is written for one workflow.
#[derive(Debug, Default)]
pub struct Weight {
    /// Messages.
    pub messages: f64,
    /// Bytes of subjects, headers and bodies.
    pub bytes: f64,
}

/// Runs `n` workflows one after the other and adds up what is written: events, tasks and records.
pub async fn weigh(client: &Client, definition: &Definition, n: usize) -> anyhow::Result<Weight> {
    let link = client.link();
    let records = Names::kv_subject(&link.names.executions_bucket(), ">");
    let mut written = Vec::new();
    for subject in [link.names.events_all(), link.names.tasks_all(), records] {
        written.push(link.client.subscribe(subject).await?);
    }
    link.client.flush().await?;
    let mut weight = Weight::default();
    for _ in 0..n {
        once(client, definition).await.map_err(anyhow::Error::msg)?;
        // The end is told last, on the same connection: everything before it is here.
        for subscription in &mut written {
            while let Some(Some(message)) = tokio::task::unconstrained(subscription.next()).now_or_never() {
                weight.messages += 1.0 / n as f64;
                weight.bytes += message.length as f64 / n as f64;
            }
        }
    }
    Ok(weight)
}

/// Runs `n` workflows, `concurrency` at once.
pub async fn many(client: &Client, definition: &Definition, n: usize, concurrency: usize) -> anyhow::Result<Measured> {
    let left = Rc::new(Cell::new(n));
    let measured = Rc::new(RefCell::new(Measured::default()));
    let started = Instant::now();
    let runners = (0..concurrency.clamp(1, n.max(1))).map(|_| {
        let (left, measured) = (left.clone(), measured.clone());
        async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                let t = Instant::now();
                let outcome = once(client, definition).await;
                let mut m = measured.borrow_mut();
                m.latency_ms.push(t.elapsed().as_secs_f64() * 1e3);
                if let Err(e) = outcome
                    && m.errors.len() < ERRORS_MAX
                {
                    m.errors.push(e);
                }
            }
        }
    });
    futures_util::future::join_all(runners).await;
    let mut m = measured.take();
    m.seconds = started.elapsed().as_secs_f64();
    Ok(m)
}

/// Runs `n` workflows one at a time and watches their events go by: when nodes start, not how long it takes in all,
/// since watching takes its time as well.
pub async fn watched(client: &Client, definition: &Definition, n: usize) -> anyhow::Result<Measured> {
    let link = client.link();
    let mut events = link.client.subscribe(link.names.events_all()).await?;
    link.client.flush().await?;
    let mut m = Measured::default();
    for _ in 0..n {
        let t = Instant::now();
        let run = once(client, definition);
        tokio::pin!(run);
        let (mut first, mut result) = (None, None::<Instant>);
        let outcome = loop {
            tokio::select! {
                outcome = &mut run => break outcome,
                Some(message) = events.next() => {
                    let now = Instant::now();
                    for line in json::lines(&message.payload) {
                        match serde_json::from_slice::<Event>(line).map(|e| e.kind) {
                            Ok(EventType::NodeStarted) => {
                                first.get_or_insert_with(|| m.first_node_ms.push((now - t).as_secs_f64() * 1e3));
                                if let Some(before) = result.take() {
                                    m.step_ms.push((now - before).as_secs_f64() * 1e3);
                                }
                            }
                            Ok(EventType::NodeCompleted) => result = Some(now),
                            _ => {}
                        }
                    }
                }
            }
        };
        if let Err(e) = outcome {
            m.errors.push(e);
        }
    }
    Ok(m)
}
