//! Orders at the market.

use std::collections::BTreeMap;

use anyhow::ensure;
use haltline_client::Status;
use haltline_tests::{Site, ledger, shapes};

use crate::COMMAND;

/// Orders placed at once.
const ORDERS: usize = 40;

#[tokio::test]
async fn without_faults_an_order_arrives_once_also_where_the_market_does_not_deduplicate() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market_with(&["--no-dedup"]).await?;
    let definition = shapes::chain("once")?;
    let keys: Vec<String> = (0..ORDERS).map(|n| format!("once-{n}")).collect();
    let runs = keys.iter().map(|key| site.run(&definition, key, site.trading()));
    let mut arrived = BTreeMap::new();
    for outcome in futures_util::future::join_all(runs).await {
        let outcome = outcome?;
        ensure!(outcome.status == Status::Completed, "{outcome:?}");
        let arrivals = ledger::arrivals(&site.ledger(), &outcome.execution_id, "buy")?;
        arrived.insert(outcome.execution_id, (arrivals.filled, arrivals.all));
    }
    ensure!(arrived.len() == ORDERS, "{} executions", arrived.len());
    ensure!(arrived.values().all(|a| *a == (1, 1)), "{arrived:?}");
    site.done();
    Ok(())
}
