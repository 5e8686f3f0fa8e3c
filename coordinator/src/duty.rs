//! What only the coordinator with shard 0 does beside its shards: a task that is begun while it is wanted here.
//!
//! Having the shard is no fence: a stalled coordinator may believe to have it still. Each duty has a fence of its own
//! in what it writes, and ends when it finds another writer there.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One that ended, because another coordinator has it, is begun again after this long if it is still wanted here.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long one that is stopped may take to store what it knows.
const DRAIN: Duration = Duration::from_secs(2);

/// A duty, while this coordinator has it.
#[derive(Default)]
pub struct Duty {
    running: Option<(JoinHandle<()>, CancellationToken)>,
    ended: Option<Instant>,
}

impl Duty {
    /// Begins it as `work` says, or ends it. Called often.
    pub fn tend<W>(&mut self, wanted: bool, work: impl FnOnce(CancellationToken) -> W)
    where
        W: Future<Output = ()> + Send + 'static,
    {
        if self.running.as_ref().is_some_and(|(task, _)| task.is_finished()) {
            self.running = None;
            self.ended = Some(Instant::now());
        }
        match &self.running {
            None if wanted && self.ended.is_none_or(|at| at.elapsed() > AGAIN_AFTER) => {
                let stop = CancellationToken::new();
                self.running = Some((tokio::spawn(work(stop.clone())), stop));
            }
            Some((_, stop)) if !wanted => stop.cancel(),
            Some(_) | None => {}
        }
    }

    /// Ends it at once: whatever it has not told, its successor tells.
    pub fn stop(&mut self) {
        if let Some((task, stop)) = self.running.take() {
            stop.cancel();
            task.abort();
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
