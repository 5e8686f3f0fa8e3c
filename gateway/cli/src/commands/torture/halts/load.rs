//! Submissions at a steady rate, so that orders are attempted all the time; what a halt refuses is not
//! repeated.

use std::{sync::Arc, time::Duration};

use haltline_client::{Client, Code, Submit};
use serde::Serialize;
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::shapes::{self, ORDERS};
use crate::commands::torture::rng::Rng;

/// Purpose of the load's numbers.
const PURPOSE: u64 = 12;
/// Submissions without an answer at once; above it the load waits.
const OPEN_MAX: usize = 256;

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Told {
    /// Executions that were asked for.
    pub submitted: AtomicU64,
    /// Of these accepted.
    pub accepted: AtomicU64,
    /// Of these refused by a halt.
    pub halted: AtomicU64,
    /// Of these without an answer.
    pub unanswered: AtomicU64,
}

/// Submits so that `rate` orders a second are attempted, until `stop`.
pub async fn run(client: Client, seed: u64, rate: f64, told: Arc<Told>, stop: CancellationToken) {
    let (mut rng, workflows) = (Rng::new(seed, PURPOSE), shapes::ids());
    let open = Arc::new(Semaphore::new(OPEN_MAX));
    let mut every = tokio::time::interval(Duration::from_secs_f64(ORDERS as f64 / rate.max(1.0)));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut running = JoinSet::new();
    for n in 0u64.. {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = async { every.tick().await; open.clone().acquire_owned().await } => permit,
        };
        let Some(workflow_id) = rng.pick(&workflows).cloned() else { break };
        let submit = Submit {
            workflow_id: workflow_id.into(),
            version: Some("1".into()),
            input: Value::Null,
            bot_id: None,
            strategy_id: None,
            key: format!("halts-{seed}-{n}").into(),
            notify: None,
        };
        let (client, told) = (client.clone(), told.clone());
        running.spawn(async move {
            told.submitted.fetch_add(1, Ordering::Relaxed);
            let counter = match client.submit(submit).await {
                Ok(_) => &told.accepted,
                Err(e) if e.code == Code::EmergencyHalted => &told.halted,
                Err(_) => &told.unanswered,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            drop(permit);
        });
        while running.try_join_next().is_some() {}
    }
    // What is not answered by now needs no answer.
    running.shutdown().await;
}
