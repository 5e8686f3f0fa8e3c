//! A coordinator that watches and is frozen in the middle: another one counts on, and when the first wakes up nothing is
//! counted twice.

use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_tests::{Site, shapes, until};

use super::{rule, stored};
use crate::COMMAND;

/// Orders before, while it is frozen, and after it woke up.
const ORDERS: usize = 30;

#[tokio::test]
async fn a_watcher_that_was_frozen_counts_nothing_twice() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_market().await?;
    for name in ["coordinator-1", "coordinator-2"] {
        site.spawn(name, &["coordinator"], None)?;
    }
    site.spawn("worker-1", &["worker", "--id", "worker-1"], None)?;
    site.ready(1).await?;
    rule(&site, &["daily_loss", "--scope", "bot:bot", "--limit", "1000000"]).await?;
    let definition = shapes::chain("order")?;
    site.client.put_workflow(&definition).await?;
    let trade = async |site: &Site, part: &str| {
        for n in 0..ORDERS {
            let submission = shapes::submission(&definition, &format!("{part}-{n}"), site.trading());
            let outcome = until("it is taken", Duration::from_secs(30), async || {
                match site.client.run(submission.clone(), Duration::from_secs(60)).await {
                    Ok(outcome) => Ok(Some(outcome)),
                    Err(e) if e.code.retryable() => Ok(None),
                    Err(e) => Err(e.into()),
                }
            })
            .await?;
            ensure!(outcome.status == Status::Completed, "{outcome:?}");
        }
        anyhow::Ok(())
    };
    trade(&site, "before").await?;
    let watcher = until("one watches", Duration::from_secs(20), async || {
        Ok(stored(&site, "watched").await.ok().and_then(|w| Some(w["coordinator_id"].as_str()?.to_owned())))
    })
    .await?;
    // Which process that is, its log tells.
    let log = std::fs::read_to_string(site.folder().join("coordinator-1.log"))?;
    let name = if log.contains(&watcher) { "coordinator-1" } else { "coordinator-2" };
    site.process(name)?.pause(true);
    trade(&site, "meanwhile").await?;
    until("the other one watches", Duration::from_secs(30), async || {
        Ok((stored(&site, "watched").await?["coordinator_id"] != watcher.as_str()).then_some(()))
    })
    .await?;
    site.process(name)?.pause(false);
    trade(&site, "after").await?;
    let expected = (3 * ORDERS * 10).to_string();
    let counted = until("everything is counted", Duration::from_secs(30), async || {
        let watched = stored(&site, "watched").await?;
        let money = &watched["state"]["rules"]["risk.bot.bot.daily_loss"]["counts"]["money"];
        let units = money["positions"]["IBM"][0].as_str().context("no position")?.to_owned();
        ensure!(units.len() <= expected.len() && units.parse::<u64>()? <= expected.parse()?, "{units} counted of {expected}");
        Ok((units == expected).then_some(watched))
    })
    .await?;
    ensure!(counted["coordinator_id"] != watcher.as_str(), "{counted}");
    site.done();
    Ok(())
}
