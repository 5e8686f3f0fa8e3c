//! Workers whose clocks are wrong: windows go by nats-server's time, so none of them makes one shorter.

use std::time::Duration;

use anyhow::ensure;
use haltline_client::Status;
use haltline_tests::{
    Site, shapes,
    venue::{Mood, Venue},
};
use serde_json::json;

use super::{rule, stored};
use crate::COMMAND;

/// Actions that fit into the window.
const LIMIT: usize = 3;

/// What is spent by a worker with one clock is counted by one with another: `first` and `then` in milliseconds.
async fn counts(first: i64, then: i64) -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    // One that does not look at deadlines: those of a clock that is behind have passed.
    let venue = Venue::start(Mood::Ok).await?;
    site.spawn("coordinator", &["coordinator"], None)?;
    site.spawn("worker-1", &["worker", "--id", "worker-1"], Some(&format!("clock:{first}")))?;
    site.ready(1).await?;
    let limit = LIMIT.to_string();
    rule(&site, &["actions_per_minute", "--scope", "global", "--limit", &limit]).await?;
    let mut definition = shapes::workflow(
        "one",
        json!([{ "id": "post", "type": "http", "params": { "url": format!("{}/post", venue.url), "method": "POST" }, "retry": { "attempts": 1 } }]),
    )?;
    definition.timeout = Some("10d".parse().map_err(anyhow::Error::msg)?);
    let began = std::time::Instant::now();
    for n in 0..LIMIT {
        let outcome = site.run(&definition, &format!("first-{n}"), json!({})).await?;
        ensure!(outcome.status == Status::Completed, "{first} {then}: {outcome:?}");
    }
    site.process("worker-1")?.kill();
    site.spawn("worker-2", &["worker", "--id", "worker-2"], Some(&format!("clock:{then}")))?;
    let outcome = site.run(&definition, "one-too-many", json!({})).await?;
    ensure!(began.elapsed() < Duration::from_secs(50), "too slow to say anything: {:?}", began.elapsed());
    ensure!(
        outcome.status == Status::Failed && outcome.error_type.as_deref() == Some("RiskLimitExceeded"),
        "{first} {then}: {outcome:?}\n{}",
        stored(&site, "reserved.global").await?
    );
    let arrived = venue.headers("/post", "idempotency-key").len();
    ensure!(arrived == LIMIT, "{first} {then}: {arrived} requests within a minute");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_clock_that_is_an_hour_ahead_forgets_nothing() -> anyhow::Result<()> {
    counts(0, 3_600_000).await
}

#[tokio::test]
async fn what_a_clock_an_hour_behind_has_spent_counts() -> anyhow::Result<()> {
    counts(-3_600_000, 0).await
}
