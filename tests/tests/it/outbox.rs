//! Writes where nobody is there to take them.

use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_common::{
    Link,
    outbox::{Outbox, Write},
    types::Names,
};
use haltline_tests::{folder::Folder, nats::Nats};

/// A stream that is not there looks like one whose leader has just gone: the write leaves again within
/// milliseconds of its return, and not when what was lost would.
#[tokio::test]
async fn what_nobody_took_leaves_again_soon() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let nats = Nats::start(&folder.path().join("nats")).await?;
    let link = Link::connect(&nats.url(), Names::new("test").map_err(anyhow::Error::msg)?, "test").await?;
    let mut outbox = Outbox::open(&link).await?;
    outbox.send((), Write::with_id("late.1".into(), "id", "body")).await;
    let early = tokio::time::timeout(Duration::from_millis(700), outbox.next()).await;
    ensure!(early.is_err(), "answered without a stream: {early:?}");
    link.js
        .create_stream(async_nats::jetstream::stream::Config { name: "late".into(), subjects: vec!["late.*".into()], ..Default::default() })
        .await?;
    // What was lost leaves again after 2 s.
    let ((), stored) = tokio::time::timeout(Duration::from_secs(1), outbox.next()).await.context("it did not leave again soon")?;
    let stored = stored?;
    ensure!(stored.seq == 1 && stored.again, "{stored:?}");
    Ok(())
}
