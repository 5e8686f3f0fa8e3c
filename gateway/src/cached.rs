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

    /// The value as it was asked for after this was called; who comes meanwhile shares the next answer. Not to be
    /// mixed with [`Cached::get`].
    pub async fn since_now<E, F: Future<Output = Result<T, E>>>(&self, ask: impl FnOnce() -> F) -> Result<T, E> {
        let called = Instant::now();
        let mut slot = self.value.lock().await;
        if let Some((asked, value)) = &*slot
            && *asked >= called
        {
            return Ok(value.clone());
        }
        let asked = Instant::now();
        let value = ask().await?;
        *slot = Some((asked, value.clone()));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use super::*;

    #[tokio::test]
    async fn who_waits_shares_an_answer_that_was_asked_for_later() {
        let (cached, asked) = (Arc::new(Cached::new(Duration::ZERO)), Arc::new(AtomicU32::new(0)));
        let get = || {
            let (cached, asked) = (cached.clone(), asked.clone());
            async move {
                let ask = async || {
                    tokio::task::yield_now().await;
                    Ok::<_, Infallible>(asked.fetch_add(1, Ordering::SeqCst))
                };
                cached.since_now(ask).await.expect("never fails")
            }
        };
        let ten: Vec<_> = (0..10).map(|_| tokio::spawn(get())).collect();
        let mut got = Vec::new();
        for one in ten {
            got.push(one.await.expect("ends"));
        }
        // The first asks; all who came while it did share the second answer.
        assert_eq!((got[0], &got[1..]), (0, &[1; 9][..]));
        assert_eq!(get().await, 2);
    }
}
