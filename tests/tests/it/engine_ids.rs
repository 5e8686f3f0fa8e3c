//! Who is who: keys, hostile ids, runs at the same time, two installations on one server.

use anyhow::ensure;
use futures_util::future::try_join_all;
use haltline_client::{Code, Status};
use haltline_common::types::definition::Definition;
use haltline_tests::{Site, checks, ledger, shapes};
use serde_json::json;

use crate::COMMAND;

#[tokio::test]
async fn a_key_stands_for_one_execution() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let chain = shapes::chain("trade")?;
    site.client.put_workflow(&chain).await?;
    let of = |input| shapes::submission(&chain, "k", input);
    // At once and one after the other.
    let same: Vec<_> = try_join_all((0..10).map(|_| site.client.submit(of(site.trading())))).await?;
    checks::ended(&site.client, "k").await?;
    let later = site.client.submit(of(site.trading())).await?;
    ensure!(same.iter().all(|a| a.execution_id == later.execution_id), "{same:?} {later:?}");
    ensure!(later.repeated && later.status == Status::Completed, "{later:?}");
    ensure!(same.iter().filter(|a| !a.repeated).count() <= 1, "{same:?}");
    ensure!(ledger::arrivals(&site.ledger(), &later.execution_id, "buy")?.all == 1, "the order");
    let other = site.client.submit(of(json!({ "market": "other" }))).await;
    ensure!(other.as_ref().is_err_and(|e| e.code == Code::Conflict && e.field.as_deref() == Some("key")), "{other:?}");
    // The same key under another workflow is another submission.
    let id = site.submit(&shapes::chain("other")?, "k", site.trading()).await?;
    ensure!(id != later.execution_id, "{id}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn runs_at_the_same_time_do_not_mix() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn("worker-2", &["worker", "--id", "worker-2"], None)?;
    site.ready(2).await?;
    let echo = shapes::workflow(
        "echo",
        json!([
            { "id": "a", "type": "static", "inputs": { "n": { "input": "n" } } },
            { "id": "b", "type": "static", "inputs": { "n": { "node": "a", "output": "n" } } },
            { "id": "c", "type": "static", "inputs": { "n": { "node": "a", "output": "n" } } },
            { "id": "d", "type": "static", "inputs": { "b": { "node": "b", "output": "n" }, "c": { "node": "c", "output": "n" } } },
        ]),
    )?;
    site.client.put_workflow(&echo).await?;
    let runs = (0..50).map(|n| {
        let (echo, site) = (&echo, &site);
        async move {
            anyhow::Ok((
                n,
                site.client.run(shapes::submission(echo, &format!("k{n}"), json!({ "n": n })), std::time::Duration::from_secs(60)).await?,
            ))
        }
    });
    let outcomes = try_join_all(runs).await?;
    for (n, outcome) in &outcomes {
        ensure!(outcome.status == Status::Completed && json!(outcome.outputs["d"]) == json!({ "b": n, "c": n }), "{n}: {outcome:?}");
    }
    for n in [0, 17, 49] {
        let (_, events) = checks::ended(&site.client, &format!("k{n}")).await?;
        ensure!(events.len() == 10, "{:?}", checks::kinds(&events));
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn hostile_ids_are_only_ids() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    for (n, id) in ["a.b *>", "../../x", "ünïcödé 🦀", "x.command", "=2E", "$KV.test_control.>", "a\"b'c;d|e"].into_iter().enumerate()
    {
        let definition = shapes::workflow(
            id,
            json!([
                { "id": id, "type": "static", "params": { "outputs": { "pass": true } } },
                { "id": "buy", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM" },
                  "inputs": { "market": { "input": "market" }, "signal": { "node": id, "output": "pass" } } },
            ]),
        )?;
        let key = format!("{id} {n}");
        let outcome = site.run(&definition, &key, site.trading()).await?;
        ensure!(outcome.status == Status::Completed, "{id}: {outcome:?}");
        let (record, events) = checks::ended(&site.client, &key).await?;
        ensure!(record.correlation.workflow_id == id && events.len() == 8, "{id}: {:?}", checks::kinds(&events));
        ensure!(ledger::arrivals(&site.ledger(), &outcome.execution_id, "buy")?.filled == 1, "{id}: the order");
        ensure!(site.client.workflow(id, None).await? == definition, "{id}: stored differently");
        let told = site.caller().call(&["executions", "show", &outcome.execution_id, "--json"]).await?;
        ensure!(told.json()?["workflow_id"] == id, "{id}: {told:?}");
    }
    site.done();
    Ok(())
}

/// Two keys of the workflow `twins` whose first candidate for an id is the same, found by trying some 75,000.
const TWINS: [&str; 2] = ["k24455", "k74219"];

fn twins(duration: &str) -> anyhow::Result<Definition> {
    let nodes = json!([
        { "id": "wait", "type": "sleep", "params": { "duration": duration } },
        { "id": "say", "type": "static", "inputs": { "slept": { "node": "wait", "output": "slept_ms" }, "key": { "input": "key" } } },
    ]);
    shapes::workflow("twins", nodes)
}

/// Both have an id of their own, also when they are submitted again, and told what is theirs.
async fn are_told_apart(site: &Site, twins: &Definition) -> anyhow::Result<()> {
    let mut ids = Vec::new();
    for key in TWINS {
        let (record, events) = checks::ended(&site.client, key).await?;
        ensure!(record.status == Status::Completed && record.key == key, "{record:?}");
        ensure!(events.len() == 6, "{key}: {:?}", checks::kinds(&events));
        let again = site.client.submit(shapes::submission(twins, key, json!({ "key": key }))).await?;
        ensure!(again.repeated && again.execution_id == record.correlation.execution_id, "{key}: {again:?}");
        ids.push(again.execution_id);
    }
    ensure!(ids[0] == "exec_twins_7aed8fe1" && ids[1] != ids[0], "they draw different ids: {ids:?}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_draws_the_id_of_an_ended_execution_gets_another() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let twins = twins("1ms")?;
    for key in TWINS {
        let outcome = site.run(&twins, key, json!({ "key": key })).await?;
        ensure!(outcome.status == Status::Completed && outcome.outputs["say"]["key"] == key, "{outcome:?}");
    }
    are_told_apart(&site, &twins).await?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_key_that_draws_the_id_of_a_running_execution_gets_another() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    let twins = twins("2s")?;
    let [first, second] = TWINS;
    let running = site.submit(&twins, first, json!({ "key": first })).await?;
    // Known to who runs it, and to a successor only by its record.
    site.process("coordinator")?.kill();
    site.spawn("successor", &["coordinator"], None)?;
    let other = site.submit(&twins, second, json!({ "key": second })).await?;
    ensure!(other != running, "{other}");
    are_told_apart(&site, &twins).await?;
    site.done();
    Ok(())
}
