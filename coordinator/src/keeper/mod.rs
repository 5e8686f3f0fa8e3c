//! Who keeps the record of control flags: the coordinator that has shard 0 tells every change of a flag in the log,
//! waits for halts to be confirmed, runs what is to run then, and writes the audit.
//!
//! Having the shard is no fence: a stalled coordinator may believe to have it still. The audit is: an entry is stored
//! only behind the one that its writer has read last, so of two writers one loses, and begins again. Events have
//! deterministic ids and are stored before their entry, so a successor repeats what is not known to be told.

mod chain;
mod run;
mod tell;

use std::time::{Duration, Instant};

use haltline_common::Link;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One that ended, because another coordinator writes, is begun again after this long if the shard is still here.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The keeper, while this coordinator is it.
#[derive(Default)]
pub struct Keeper {
    running: Option<(JoinHandle<()>, CancellationToken)>,
    ended: Option<Instant>,
}

impl Keeper {
    /// Begins or ends it. Called often.
    pub fn tend(&mut self, wanted: bool, link: &Link, coordinator_id: &str) {
        if self.running.as_ref().is_some_and(|(task, _)| task.is_finished()) {
            self.running = None;
            self.ended = Some(Instant::now());
        }
        match &self.running {
            None if wanted && self.ended.is_none_or(|at| at.elapsed() > AGAIN_AFTER) => {
                let stop = CancellationToken::new();
                let run = run::run(link.clone(), coordinator_id.to_owned(), stop.clone());
                self.running = Some((tokio::spawn(run), stop));
            }
            Some((_, stop)) if !wanted => stop.cancel(),
            Some(_) | None => {}
        }
    }

    /// Ends it: whatever it has not told, its successor tells.
    pub fn stop(&mut self) {
        if let Some((task, stop)) = self.running.take() {
            stop.cancel();
            task.abort();
        }
    }
}
