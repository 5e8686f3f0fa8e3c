//! Bounded waits. A test waits for what it wants to see, never for a time after which it hopes to.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What happens soon on a sound system has happened by then even on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Looks until there is something, at most `limit` long.
///
/// # Errors
/// When it is not there by then, or looking fails.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look().await.with_context(|| format!("waiting until {what}"))? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("not within {limit:?}: {what}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The same for a condition, with a generous limit.
///
/// # Errors
/// As [`until`].
pub async fn soon(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    until(what, SOON, async || Ok(holds().await?.then_some(()))).await
}
