//! A value asked for at most once in a while, however many want it.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// A value and how long it may be given again. Failures are not kept.
pub(crate) struct Cached<T> {
    ttl: Duration,
    value: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Cached<T> {
    /// Nothing yet.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, value: Mutex::new(None) }
    }

    /// The value, asked for if it is too old. Who comes while it is being asked for waits for the
    /// same answer.
    pub async fn get<E, F: Future<Output = Result<T, E>>>(&self, ask: impl FnOnce() -> F) -> Result<T, E> {
        let mut slot = self.value.lock().await;
        if let Some((at, value)) = &*slot
            && at.elapsed() < self.ttl
        {
            return Ok(value.clone());
        }
        let value = ask().await?;
        *slot = Some((Instant::now(), value.clone()));
        Ok(value)
    }
}
