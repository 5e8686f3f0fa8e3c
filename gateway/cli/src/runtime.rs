//! Runtimes: one thread, one loop. A service is one loop over shared state, so more threads would
//! only add locks; `dev` gives each service a thread of its own.

use std::{io, thread::JoinHandle};

use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

fn build() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Runs `task` on this thread.
///
/// # Errors
/// When the runtime cannot be made.
pub fn block_on<T>(task: impl Future<Output = T>) -> io::Result<T> {
    let runtime = build()?;
    let outcome = runtime.block_on(task);
    // A blocking call that still waits, as for a name's address, must not hold up the exit.
    runtime.shutdown_background();
    Ok(outcome)
}

/// A service on a thread of its own.
pub struct Service {
    /// For people.
    pub name: &'static str,
    /// Ends it when cancelled.
    pub stop: CancellationToken,
    // `None` once it has told.
    ended: Option<oneshot::Receiver<anyhow::Result<()>>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts `service` on a new thread; it is given the token that ends it.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start<F>(name: &'static str, service: impl FnOnce(CancellationToken) -> F + Send + 'static) -> io::Result<Self>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let stop = CancellationToken::new();
        let (tx, ended) = oneshot::channel();
        let token = stop.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let outcome = block_on(service(token)).map_err(anyhow::Error::from).and_then(|outcome| outcome);
            let _ = tx.send(outcome); // nobody waits for it during a forced exit
        })?;
        Ok(Self { name, stop, ended: Some(ended), thread: Some(thread) })
    }

    /// Waits for its end, told once; then for ever. Cancel safe.
    ///
    /// # Errors
    /// What the service failed with, or that its thread panicked.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let Some(ended) = &mut self.ended else { return std::future::pending().await };
        let outcome = ended.await;
        self.ended = None;
        match outcome {
            Ok(outcome) => outcome.map_err(|e| e.context(format!("the {} failed", self.name))),
            Err(_) => Err(anyhow::anyhow!("the {} panicked; its message is above", self.name)),
        }
    }

    /// Ends it and waits until it has drained.
    ///
    /// # Errors
    /// As [`Service::ended`].
    pub async fn drain(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        let outcome = if self.ended.is_some() { self.ended().await } else { Ok(()) };
        if let Some(thread) = self.thread.take() {
            // A panic was told above.
            let _ = thread.join();
        }
        outcome
    }
}
