//! Risk limits that trip by themselves: the coordinator that has shard 0 follows the log for all scopes, wherever
//! their executions run, and raises levels.
//!
//! Which one that is, is no fence: a stalled coordinator may believe to have the shard still. The record is: whoever
//! begins writes it first, and the one before loses its next swap. What is stored there, and the position
//! in the log that it includes, are one value, so a successor counts each outcome once. A breach is acted on before it is
//! stored: what a coordinator that dies in between has done, its successor does again, which changes nothing.

mod dead_man;
mod owner;
mod settle;
mod tell;

use std::time::{Duration, Instant};

use haltline_common::Link;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One that ended, because another coordinator has the record, is begun again after this long if the shard is still here.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long one that is stopped may take to store what it knows.
const DRAIN: Duration = Duration::from_secs(2);

/// The owner of all risk limits, while this coordinator is it.
#[derive(Default)]
pub struct Risk {
    running: Option<(JoinHandle<()>, CancellationToken)>,
    ended: Option<Instant>,
}

impl Risk {
    /// Begins or ends it. Called often.
    pub fn tend(&mut self, wanted: bool, link: &Link, coordinator_id: &str) {
        if self.running.as_ref().is_some_and(|(task, _)| task.is_finished()) {
            self.running = None;
            self.ended = Some(Instant::now());
        }
        match &self.running {
            None if wanted && self.ended.is_none_or(|at| at.elapsed() > AGAIN_AFTER) => {
                let stop = CancellationToken::new();
                let run = owner::run(link.clone(), coordinator_id.to_owned(), stop.clone());
                self.running = Some((tokio::spawn(run), stop));
            }
            Some((_, stop)) if !wanted => stop.cancel(),
            Some(_) | None => {}
        }
    }

    /// Ends it, and waits for that.
    pub async fn drain(&mut self) {
        let Some((task, stop)) = self.running.take() else { return };
        stop.cancel();
        let abort = task.abort_handle();
        if tokio::time::timeout(DRAIN, task).await.is_err() {
            abort.abort();
        }
    }
}
