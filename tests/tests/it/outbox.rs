//! Writes where nobody is there to take them, or where it takes a while.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::stream::Config;
use haltline_common::{
    Link,
    outbox::{Outbox, Write},
    types::Names,
};
use haltline_tests::{folder::Folder, nats::Nats, until};

/// A stream that is not there looks like one whose leader has just gone: the write leaves again every 0.2 s, and not
/// when what was lost would.
#[tokio::test]
async fn what_nobody_took_leaves_again_soon() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let nats = Nats::start(&folder.path().join("nats")).await?;
    let link = Link::connect(&nats.url(), Names::new("test").map_err(anyhow::Error::msg)?, "test").await?;
    let mut outbox = Outbox::open(&link).await?;
    outbox.send((), Write::with_id("late.1".into(), "id", "body")).await;
    let early = tokio::time::timeout(Duration::from_millis(700), outbox.next()).await;
    ensure!(early.is_err(), "answered without a stream: {early:?}");
    link.js.create_stream(Config { name: "late".into(), subjects: vec!["late.*".into()], ..Default::default() }).await?;
    // What was lost leaves again after 2 s.
    let ((), stored) = tokio::time::timeout(Duration::from_secs(1), outbox.next()).await.context("it did not leave again soon")?;
    let stored = stored?;
    ensure!(stored.seq == 1 && stored.again, "{stored:?}");
    Ok(())
}

/// While most copies do not answer, the leader has a write and cannot say whether it is stored; a repeat is answered with
/// an error then, which decides nothing.
#[tokio::test]
async fn a_repeat_of_what_is_on_its_way_is_not_refused() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let mut three = Nats::start_three(folder.path()).await?;
    let names = Names::new("test").map_err(anyhow::Error::msg)?;
    let link = Link::connect(&three[0].url(), names.clone(), "test").await?;
    let config = Config { name: "slow".into(), subjects: vec!["slow.*".into()], num_replicas: 3, ..Default::default() };
    let stream = until("a cluster", Duration::from_secs(60), async || Ok(link.js.create_stream(config.clone()).await.ok())).await?;
    let leader = stream.cached_info().cluster.as_ref().and_then(|c| c.leader.clone()).context("no leader")?;
    let leads = three.iter().position(|nats| nats.name() == leader).with_context(|| format!("{leader} is none of them"))?;
    let link = Link::connect(&three[leads].url(), names, "test").await?;
    let mut outbox = Outbox::open(&link).await?;

    let pause = |three: &mut [Nats], paused| three.iter_mut().enumerate().filter(|(i, _)| *i != leads).for_each(|(_, n)| n.pause(paused));
    pause(&mut three, true);
    // On a busy machine a process goes on for a moment after it was told to stop.
    let silent = async || {
        let stored = async { link.js.publish("slow.0", "".into()).await?.await.map_err(anyhow::Error::from) };
        Ok(tokio::time::timeout(Duration::from_millis(300), stored).await.is_err().then_some(()))
    };
    until("the others have stopped", Duration::from_secs(5), silent).await?;
    outbox.send((), Write::with_id("slow.1".into(), "id", "body")).await;
    // It leaves again after 2 s.
    let early = tokio::time::timeout(Duration::from_millis(2_500), outbox.next()).await;
    pause(&mut three, false);
    ensure!(early.is_err(), "answered with one copy of three: {early:?}");
    let ((), stored) = tokio::time::timeout(Duration::from_secs(30), outbox.next()).await.context("no answer")?;
    let stored = stored?;
    let found = stream.get_raw_message(stored.seq).await?;
    ensure!(stored.again && found.payload == "body", "{stored:?} {found:?}");
    Ok(())
}
