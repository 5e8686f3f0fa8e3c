//! Stopping under circumstances: a dead man's switch, a control bucket that is emptied, orders that arrive late, and two that keep the
//! record of halts.

use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_client::{Code, Status};
use haltline_common::{
    clock,
    types::{
        Names,
        control::{Level, OnHalt, Scope},
        definition::Definition,
        event::EventType,
    },
};
use haltline_tests::{Relay, Site, checks, http, shapes, soon, until};
use serde_json::{Value, json};

use crate::COMMAND;

/// All lines of the market's ledger.
fn ledger(site: &Site) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(site.ledger()).unwrap_or_default();
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[tokio::test]
async fn a_missed_heartbeat_runs_what_its_halt_is_to_run_once() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let caller = site.caller();
    // Closes the position: marked as allowed, and it only takes risk away.
    let close = shapes::workflow(
        "close-all",
        json!([{ "id": "sell", "type": "paper_order", "allowed_while_halted": true, "effect": "reduces_risk",
                 "params": { "side": "sell", "quantity": "1", "symbol": "IBM" }, "inputs": { "market": { "input": "market" } } }]),
    )?;
    site.client.put_workflow(&close).await?;
    let input = json!({ "market": site.market_url() }).to_string();
    let told = caller.call(&["on-halt", "--scope", "bot:b1", "--run", "close-all", "--input", &input]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    let told = caller.call(&["heartbeat", "--scope", "bot:b1", "--every", "1s", "--by", "ana"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    let scope = Scope::Bot("b1".into());
    let flag = until("it trips", Duration::from_secs(20), async || {
        let flag = site.client.flag_of(&scope).await?;
        Ok((flag.state == Level::Halt).then_some(flag))
    })
    .await?;
    ensure!(flag.reason.contains("dead-man switch"), "{flag:?}");
    let (record, events) = checks::ended(&site.client, &format!("on_halt/{}/{}", scope.key(), flag.revision)).await?;
    ensure!(record.status == Status::Completed, "{record:?}\n{}", checks::kinds(&events).join("\n"));
    ensure!(record.correlation.bot_id == "b1" && record.input["halt"]["state"] == "halt", "{record:?}");
    ensure!(haltline_tests::ledger::arrivals(&site.ledger(), &record.correlation.execution_id, "sell")?.filled == 1, "it did not sell");
    // Neither a coordinator that takes over nor the silence that goes on runs it again.
    site.process("coordinator")?.kill();
    site.spawn("coordinator-2", &["coordinator"], None)?;
    site.ready(1).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let runs = site.client.executions(100).await?.len();
    ensure!(runs == 1 && ledger(&site)?.len() == 1, "it ran {runs} times");
    site.done();
    Ok(())
}

/// Orders one after the other, each after a pause; what holds goes on trying.
fn busy(id: &str, orders: usize) -> anyhow::Result<Definition> {
    let mut nodes = Vec::new();
    for n in 0..orders {
        let after = if n == 0 { json!([]) } else { json!([format!("buy{}", n - 1)]) };
        nodes.push(json!({ "id": format!("think{n}"), "type": "sleep", "params": { "duration": "50ms" }, "depends_on": after }));
        nodes.push(json!({ "id": format!("buy{n}"), "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM" },
                           "inputs": { "market": { "input": "market" } }, "depends_on": [format!("think{n}")] }));
    }
    let mut definition = shapes::workflow(id, Value::Array(nodes))?;
    definition.on_halt = Some(OnHalt::Hold);
    Ok(definition)
}

/// What is done to the control bucket's stream.
async fn loses_its_flags(api: &str) -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let definition = busy("busy", 200)?;
    for n in 0..4 {
        site.submit(&definition, &format!("k{n}"), site.trading()).await?;
    }
    soon("orders arrive", async || Ok(ledger(&site)?.len() > 20)).await?;
    let stream = Names::bucket_stream(&site.link().names.control_bucket());
    haltline_common::js::api::<Value>(site.link(), &format!("STREAM.{api}.{stream}"), &json!({})).await?;
    let at = clock::now();
    // Each effect was let through by a lease that nobody renews any more: one second, and what clocks may differ.
    let late = |site: &Site| -> anyhow::Result<Vec<Value>> {
        let arrived = ledger(site)?.into_iter().filter(|line| {
            let time = line["time"].as_str().and_then(|t| haltline_common::types::Timestamp::parse(t).ok());
            time.is_none_or(|t| t.0 > at.0 + 1_600)
        });
        Ok(arrived.collect())
    };
    soon("the coordinator refuses", async || {
        let key = format!("probe-{}", crate::halt::uniq());
        let refused = site.client.submit(shapes::submission(&definition, &key, site.trading())).await.err();
        Ok(refused.is_some_and(|e| matches!(e.code, Code::EmergencyHalted | Code::ControlUnsure)))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(late(&site)?.is_empty(), "{api}: orders arrived: {:?}", late(&site)?.first());
    // Making it again allows nothing; only somebody who looks and resumes does.
    let told = site.caller().call(&["ensure"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(late(&site)?.is_empty(), "{api}: orders arrived after `ensure`: {:?}", late(&site)?.first());
    let flag = site.client.flag().await?;
    ensure!(flag.state == Level::Halt, "{api}: {flag:?}");
    let before = ledger(&site)?.len();
    let told = site.caller().call(&["resume", "--reason", "looked at it"]).await?;
    ensure!(told.code == Some(0), "{api}: {told:?}");
    until("orders arrive again", Duration::from_secs(30), async || Ok((ledger(&site)?.len() > before + 10).then_some(()))).await?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_control_bucket_that_is_purged_stops_everything_until_ensure_and_resume() -> anyhow::Result<()> {
    loses_its_flags("PURGE").await
}

#[tokio::test]
async fn a_control_bucket_that_is_deleted_stops_everything_until_ensure_and_resume() -> anyhow::Result<()> {
    loses_its_flags("DELETE").await
}

/// An order that the network keeps back, and that nobody waits for any more: the halt is confirmed once the order's
/// deadline has passed, and the market refuses it when it arrives.
#[tokio::test]
async fn an_order_that_arrives_after_its_deadline_is_refused() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let port = site.market_url().rsplit(':').next().context("a port")?.parse()?;
    let relay = Relay::start(port).await?;
    relay.hold(true);
    let definition = shapes::workflow(
        "held",
        json!([{ "id": "buy", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM", "market": relay.url, "timeout": "300ms" },
                 "retry": { "attempts": 1 } }]),
    )?;
    let id = site.submit(&definition, "held", json!({})).await?;
    soon("the order is on its way", async || Ok(relay.arrived() > 0)).await?;
    let told = site.caller().call(&["halt", "--reason", "while an order is on its way", "--wait", "10s", "--json"]).await?;
    ensure!(told.code == Some(0), "the halt is not confirmed: {told:?}");
    let (record, events) = checks::ended(&site.client, "held").await?;
    let list = checks::kinds(&events).join("\n");
    // Nobody could be asked either: it is named as what nobody knows.
    ensure!(record.status == Status::Halted && record.unknown_nodes.len() == 1, "{record:?}\n{list}");
    // Only now the network lets go of it.
    relay.hold(false);
    soon("the market has answered", async || Ok(relay.answered() > 0)).await?;
    ensure!(haltline_tests::ledger::arrivals(&site.ledger(), &id, "buy")?.all == 0, "the market took it after the halt was confirmed");
    site.done();
    Ok(())
}

/// A worker dies with an order that may be on its way. Its successor asks the market, which has not got it, and does not
/// send it either, since its price is too old by then: so it must not be taken when it arrives after all.
#[tokio::test]
async fn an_order_that_was_asked_for_before_it_arrives_is_refused() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_market().await?;
    site.spawn("coordinator", &["coordinator"], None)?;
    site.spawn("worker-1", &["worker", "--id", "worker-1"], Some("worker.effect"))?;
    site.ready(1).await?;
    let definition = shapes::workflow(
        "asked",
        json!([{ "id": "buy", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM", "market": site.market_url() },
                 "inputs": { "limit_price": { "input": "limit" } }, "max_input_age": "1s", "retry": { "attempts": 1 } }]),
    )?;
    let id = site.submit(&definition, "asked", json!({ "limit": "500" })).await?;
    let client = site.client.clone();
    let (record, events) = site.tending(checks::ended(&client, "asked")).await?;
    let list = checks::kinds(&events).join("\n");
    ensure!(site.process("worker-1")?.killed() == 1, "it did not die:\n{list}");
    ensure!(record.status == Status::Failed && record.error_type.as_deref() == Some("StaleInput"), "{record:?}\n{list}");
    let intent = events.iter().find(|e| e.kind == EventType::EffectIntended).context("no intent")?;
    let settled =
        events.iter().find(|e| e.kind == EventType::EffectSettled && e.intent.as_ref() == Some(&intent.id)).context("not settled")?;
    ensure!(settled.status.as_deref() == Some("not_done"), "{settled:?}");
    ensure!(ledger(&site)?.is_empty(), "it was sent");
    // Here it comes, long before its deadline.
    let late = json!({ "client_order_id": intent.key, "execution_id": id, "token": intent.token, "attempt": intent.attempt, "symbol": "IBM",
                       "side": "buy", "quantity": "1", "limit_price": "500" });
    let answer = http::client()?.post(format!("{}/orders", site.market_url())).json(&late).send().await?;
    ensure!(answer.status() == 409, "{answer:?}");
    let lines = ledger(&site)?;
    ensure!(lines.len() == 1 && lines[0]["outcome"] == "stale", "{lines:?}");
    site.done();
    Ok(())
}

/// One is frozen in the middle of keeping the record, the other takes over, then both believe to have the duty.
#[tokio::test]
async fn two_that_keep_the_record_of_halts_leave_one_chain() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn("coordinator-1", &["coordinator"], None)?;
    site.spawn("worker-1", &["worker", "--id", "worker-1"], None)?;
    site.ready(1).await?;
    site.spawn("coordinator-2", &["coordinator"], None)?;
    let verify = async |site: &Site| -> anyhow::Result<(u64, String)> {
        let told = site.caller().call(&["audit", "verify", "--json"]).await?;
        let found = told.json()?;
        ensure!(told.code == Some(0), "{told:?}");
        Ok((found["entries"].as_u64().context("entries")?, found["head"].as_str().context("a head")?.to_owned()))
    };
    let turn = async |site: &Site, n: usize| -> anyhow::Result<()> {
        let scope = Scope::Bot(format!("b{n}"));
        let flag = site.client.raise(&scope, Level::Halt, "op", "on").await?;
        site.client.lower(&scope, Level::Normal, "op", "off", flag.revision, None).await?;
        Ok(())
    };
    let frozen = ["coordinator-1", "coordinator-2"];
    let mut n = 0;
    for round in 0..4 {
        for _ in 0..3 {
            turn(&site, n).await?;
            n += 1;
        }
        // Whoever has the duty is frozen for longer than the others wait, now this one, now the other.
        let name = frozen[round % 2];
        site.process(name)?.pause(true);
        for _ in 0..3 {
            turn(&site, n).await?;
            n += 1;
        }
        // All changes of a round are written by somebody while this one is frozen.
        let wanted = 2 * n as u64;
        until("somebody keeps the record", Duration::from_secs(30), async || Ok((changes(&site).await? >= wanted).then_some(()))).await?;
        site.process(name)?.pause(false);
        turn(&site, n).await?;
        n += 1;
    }
    let wanted = 2 * n as u64;
    until("all changes are on record", Duration::from_secs(30), async || Ok((changes(&site).await? >= wanted).then_some(()))).await?;
    let (_, head) = verify(&site).await?;
    // Each change is in it once, whoever wrote it.
    let file = site.folder().join("audit.jsonl");
    let path = file.to_string_lossy().into_owned();
    let told = site.caller().call(&["audit", "export", "--to", &path]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    let text = std::fs::read_to_string(&file)?;
    let (mut seen, mut writers) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line)?;
        writers.insert(entry["written_by"].as_str().context("a writer")?.to_owned());
        let once = seen.insert((entry["happened"].to_string(), entry["scope"].to_string(), entry["revision"].to_string()));
        ensure!(once, "on record twice: {line}");
    }
    ensure!(writers.len() == 2, "only one of them wrote: {writers:?}");
    // The export holds, with the head that was kept; one that was changed, cut or reordered does not.
    let check = async |text: String, head: Option<&str>| -> anyhow::Result<bool> {
        std::fs::write(&file, text)?;
        let head = head.map(|h| vec!["--head", h]).unwrap_or_default();
        let told = site.caller().call(&[&["audit", "verify", "--file", &path][..], &head].concat()).await?;
        ensure!(matches!(told.code, Some(0 | 1)), "{told:?}");
        Ok(told.code == Some(0))
    };
    ensure!(check(text.clone(), Some(&head)).await?, "the export does not hold");
    let lines: Vec<&str> = text.lines().collect();
    let middle = lines.len() / 2;
    let mut changed = lines.clone();
    let other = changed[middle].replacen("\"revision\":", "\"revision\":1", 1);
    ensure!(other != changed[middle], "nothing was changed");
    changed[middle] = &other;
    ensure!(!check(changed.join("\n"), None).await?, "a changed line is not found");
    let without: Vec<&str> = lines.iter().enumerate().filter(|(i, _)| *i != middle).map(|(_, l)| *l).collect();
    ensure!(!check(without.join("\n"), None).await?, "a missing line is not found");
    let mut swapped = lines.clone();
    swapped.swap(middle, middle + 1);
    ensure!(!check(swapped.join("\n"), None).await?, "two lines in each other's place are not found");
    ensure!(!check(lines[..middle].join("\n"), Some(&head)).await?, "a cut end is not found by the head");
    site.done();
    Ok(())
}

/// Changes of flags on record.
async fn changes(site: &Site) -> anyhow::Result<u64> {
    let all = haltline_common::audit::read(site.link()).await?;
    let is_change = |body: &[u8]| serde_json::from_slice::<Value>(body).is_ok_and(|e| e["happened"] == "changed" && e["scope"] != "global");
    Ok(all.iter().filter(|e| is_change(&e.body)).count() as u64)
}
