//! How coordinators read the log: by one consumer while one has all shards, else by one for each shard;
//! what is on its way meanwhile is taken in, once.

use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_common::js;
use haltline_tests::{Site, checks, shapes, soon};
use serde_json::{Value, json};

use crate::COMMAND;

/// Consumers for all shards together and for one shard that coordinators read by now.
async fn readers(site: &Site) -> anyhow::Result<(usize, usize)> {
    let subject = format!("CONSUMER.LIST.{}", site.link().names.events_stream());
    let listed: Value = js::api(site.link(), &subject, &Value::Null).await?;
    let consumers = listed["consumers"].as_array().context("no list")?;
    let bound = consumers.iter().filter(|c| c["push_bound"] == true).filter_map(|c| c["config"]["filter_subject"].as_str());
    let (together, alone): (Vec<_>, Vec<_>) = bound.filter(|f| f.contains(".input.")).partition(|f| f.contains("*.input"));
    Ok((together.len(), alone.len()))
}

#[tokio::test]
async fn shards_read_together_while_one_coordinator_has_them_all() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    let definition = shapes::workflow(
        "w",
        json!([
            { "id": "a", "type": "static", "params": { "outputs": { "x": 1 } } },
            { "id": "b", "type": "sleep", "params": { "duration": "20ms" }, "depends_on": ["a"] },
        ]),
    )?;
    site.client.put_workflow(&definition).await?;
    // One after the other, all the time.
    let client = site.client.clone();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(async move {
        let mut ids = Vec::new();
        while !*stopped.borrow_and_update() {
            let first = ids.len();
            let keys = (first..first + 20).map(|n| format!("k{n}"));
            let many = keys.map(|key| client.run(shapes::submission(&definition, &key, json!({})), Duration::from_secs(60)));
            for outcome in futures_util::future::join_all(many).await {
                let outcome = outcome?;
                ensure!(outcome.status == Status::Completed, "{outcome:?}");
                ids.push(outcome.execution_id);
            }
        }
        Ok(ids)
    });
    for round in 0..2 {
        let name = format!("second-{round}");
        soon("all are read together", async || Ok(readers(&site).await? == (1, 0))).await?;
        site.spawn(&name, &["coordinator"], None)?;
        soon("each is read for itself", async || Ok(readers(&site).await? == (0, 8))).await?;
        let second = site.process(&name)?;
        if round == 0 { second.terminate() } else { second.kill() }
    }
    soon("all are read together", async || Ok(readers(&site).await? == (1, 0))).await?;
    stop.send(true)?;
    let ids = load.await??;
    for id in ids.iter().step_by(10) {
        let events: Vec<_> = site.client.events(id).await?.into_iter().map(|(_, e)| e).collect();
        checks::whole(&site.client.record(id).await?, &events)?;
    }
    site.done();
    Ok(())
}
