//! Two bots share a limit on notional and race for it from two worker processes: it is never exceeded by one
//! cent, and it is reached. Counted from the market's ledger alone.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_common::types::definition::Definition;
use haltline_tests::{Site, checks, shapes, until};
use serde_json::{Value, json};

use super::{rule, stored};
use crate::COMMAND;

/// What the strategy may trade within a day, in cents.
const LIMIT_CENTS: i64 = 10_000_000;
/// Orders of one execution, all at once.
const ORDERS: usize = 25;
/// Executions of each bot: with two bots, 1,000 orders.
const EXECUTIONS: usize = 20;

/// Orders of different sizes, all at once; what is refused lets the others go on. They reserve at their limit and
/// fill below it, so that the limit is fought for until nothing fits any more.
fn orders(id: &str, salt: usize) -> anyhow::Result<Definition> {
    let order = |n: usize| {
        let hundredths = 37 + (n * 61 + salt * 17) % 400;
        json!({ "id": format!("o{n}"), "type": "paper_order", "on_error": "continue", "retry": { "attempts": 3, "delay": "20ms" },
                "params": { "side": "buy", "symbol": "IBM", "quantity": format!("{}.{:02}", hundredths / 100, hundredths % 100),
                            "limit_price": "130" },
                "inputs": { "market": { "input": "market" } } })
    };
    let mut definition = shapes::workflow(id, Value::Array((0..ORDERS).map(order).collect()))?;
    definition.strategy_id = "shared".into();
    Ok(definition)
}

/// Filled orders of the ledger, each in cents times hundredths, and how many arrived.
fn filled(site: &Site) -> anyhow::Result<(Vec<i64>, usize)> {
    let text = std::fs::read_to_string(site.ledger()).unwrap_or_default();
    let hundredths = |v: &Value| -> anyhow::Result<i64> {
        let (whole, part) = v.as_str().context("no text")?.split_once('.').unwrap_or((v.as_str().context("no text")?, ""));
        Ok(whole.parse::<i64>()? * 100 + format!("{part:0<2}").parse::<i64>()?)
    };
    let (mut all, mut arrived) = (Vec::new(), 0);
    for line in text.lines() {
        let arrival: Value = serde_json::from_str(line)?;
        arrived += 1;
        if arrival["outcome"] == "accepted" && !arrival["price"].is_null() {
            all.push(hundredths(&arrival["price"])? * hundredths(&arrival["quantity"])?);
        }
    }
    Ok((all, arrived))
}

#[tokio::test]
async fn two_bots_that_race_for_a_shared_limit_never_exceed_it() -> anyhow::Result<()> {
    race(None).await
}

/// The same with workers that store what they reserve over each other's: this test finds it.
#[cfg(feature = "planted")]
#[tokio::test]
async fn workers_that_put_their_reservations_are_found() -> anyhow::Result<()> {
    let found = race(Some("planted:reservation-put")).await;
    ensure!(found.as_ref().is_err_and(|e| e.to_string().contains("exceeded")), "{found:?}");
    Ok(())
}

async fn race(bug: Option<&str>) -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_market().await?;
    site.spawn("coordinator", &["coordinator"], None)?;
    for worker in ["worker-1", "worker-2"] {
        site.spawn(worker, &["worker", "--id", worker, "--slots", "16"], bug)?;
    }
    site.ready(2).await?;
    let limit = format!("{}", LIMIT_CENTS / 100);
    rule(&site, &["notional_per_window", "--scope", "strategy:shared", "--limit", &limit, "--window", "1d", "--name", "daily"]).await?;

    let began = std::time::Instant::now();
    let (mut definitions, client) = (Vec::new(), site.client.clone());
    for salt in 0..4 {
        let definition = orders(&format!("race{salt}"), salt)?;
        client.put_workflow(&definition).await?;
        definitions.push(definition);
    }
    // Both bots at once, a few executions of each in flight.
    let race = |bot: &'static str| {
        let (client, definitions, input) = (client.clone(), &definitions, site.trading());
        async move {
            for n in 0..EXECUTIONS {
                let mut submission = shapes::submission(&definitions[n % definitions.len()], &format!("{bot}-{n}"), input.clone());
                submission.bot_id = Some(bot.into());
                let outcome = client.run(submission, Duration::from_secs(90)).await?;
                let fine = matches!(outcome.status, Status::Completed | Status::CompletedWithErrors);
                ensure!(fine, "{bot} {n}: {outcome:?}");
            }
            anyhow::Ok(())
        }
    };
    tokio::try_join!(race("red"), race("blue"))?;
    let took = began.elapsed();

    let (amounts, arrived) = filled(&site)?;
    // In units of a hundredth of a cent; at no time more than the limit, since it only grows.
    let (total, bound) = (amounts.iter().sum::<i64>(), LIMIT_CENTS * 100);
    ensure!(total <= bound, "{total} of {bound}: exceeded");
    // Nothing of the smallest size fits any more: 0.37 at the limit price.
    ensure!(bound - total < 37 * 13_000, "{} of {bound} hundredths of a cent are left: it was not reached", bound - total);
    ensure!(arrived == amounts.len() && amounts.len() < 2 * EXECUTIONS * ORDERS, "{arrived} arrived, {} filled", amounts.len());

    // Both processes took part, and the refusals name the rule.
    let (mut workers, mut refused) = (BTreeSet::new(), 0);
    for key in ["red-0", "blue-0", "red-19", "blue-19"] {
        for event in checks::ended(&client, key).await?.1 {
            workers.extend(event.worker_id);
            if event.error_type.as_deref() == Some("RiskLimitExceeded") {
                refused += 1;
                let error = event.error.unwrap_or_default();
                ensure!(error.contains("rule `daily` of strategy:shared allows a notional_per_window of 100000 money: it is"), "{error}");
            }
        }
    }
    ensure!(workers.len() >= 2, "{workers:?}");
    ensure!(refused > 0, "nothing was refused");
    // What is counted is what happened; nothing stays reserved.
    let book = until("nothing stays reserved", Duration::from_secs(10), async || {
        let book = stored(&site, "reserved.strategy.shared").await?;
        Ok(book["open"].as_object().is_some_and(|o| o.is_empty()).then_some(book))
    })
    .await?;
    let spent = book["spent"].as_array().context("nothing spent")?;
    let spent: f64 = spent.iter().filter_map(|s| s["notional"].as_str()?.parse::<f64>().ok()).sum();
    ensure!((spent - total as f64 / 10_000.0).abs() < 0.001, "{spent} is counted, {total} happened");
    println!(
        "{} orders asked for, {} filled, {} of {} hundredths of a cent used, {took:.1?}",
        2 * EXECUTIONS * ORDERS,
        amounts.len(),
        total,
        bound
    );
    site.done();
    Ok(())
}

/// A worker that dies between reserving and acting leaves its reservation; whoever goes on with the task has it, and
/// nothing is reserved twice.
#[tokio::test]
async fn a_worker_that_dies_with_a_reservation_leaves_it_to_its_successor() -> anyhow::Result<()> {
    let play = |point: &'static str| async move {
        let mut site = Site::bare(COMMAND).await?;
        site.spawn_market().await?;
        site.spawn("coordinator", &["coordinator"], None)?;
        site.spawn("worker-1", &["worker", "--id", "worker-1"], Some(point))?;
        site.ready(1).await?;
        // Room for one order and not for two: 10 at 90.00 at most.
        rule(&site, &["notional_per_window", "--scope", "bot:bot", "--limit", "1000", "--window", "1h"]).await?;
        rule(&site, &["actions_per_minute", "--scope", "global", "--limit", "1"]).await?;
        let mut definition = shapes::chain("order")?;
        for node in definition.nodes.iter_mut().filter(|n| n.id == "buy") {
            Arc::make_mut(&mut node.params).insert("limit_price".into(), json!("130"));
            Arc::make_mut(&mut node.params).insert("quantity".into(), json!("7"));
        }
        let id = site.submit(&definition, "k", site.trading()).await?;
        let client = site.client.clone();
        let (record, events) = site.tending(checks::ended(&client, "k")).await?;
        ensure!(record.status == Status::Completed, "{point}: {record:?}\n{}", checks::kinds(&events).join("\n"));
        ensure!(site.process("worker-1")?.killed() == 1, "{point}: it did not die");
        let arrived = haltline_tests::ledger::arrivals(&site.ledger(), &id, "buy")?;
        ensure!(arrived.filled == 1, "{point}: {arrived:?}");
        for key in ["reserved.bot.bot", "reserved.global"] {
            let book = site
                .tending(until("it is settled, once", Duration::from_secs(30), async || {
                    let link = client.link();
                    let scope = haltline_common::risk::reserved_scope(key).context("no scope")?;
                    let Ok(Some((book, _))) = haltline_common::risk::book(link, &scope).await else { return Ok(None) };
                    Ok((book.open.is_empty() && !book.spent.is_empty()).then_some(book))
                }))
                .await?;
            ensure!(book.spent.len() == 1 && book.positions["IBM"].quantity == 7.into(), "{point} {key}: {book:?}");
        }
        site.done();
        anyhow::Ok(())
    };
    tokio::try_join!(play("worker.reserved"), play("worker.effect"), play("worker.effect_done"), play("worker.result"))?;
    Ok(())
}

/// An execution that is cancelled while its worker is dead: a coordinator gives back what was reserved.
#[tokio::test]
async fn what_nobody_settles_is_settled_from_the_log() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_market().await?;
    site.spawn("coordinator", &["coordinator"], None)?;
    site.spawn("worker-1", &["worker", "--id", "worker-1"], Some("worker.reserved"))?;
    site.ready(1).await?;
    rule(&site, &["actions_per_minute", "--scope", "global", "--limit", "5"]).await?;
    let id = site.submit(&shapes::chain("order")?, "k", site.trading()).await?;
    let link = site.link().clone();
    let open = async || {
        let (book, _) = haltline_common::risk::book(&link, &haltline_common::types::control::Scope::Global).await?.context("no record")?;
        anyhow::Ok(book.open.len())
    };
    until("the worker died with a reservation", Duration::from_secs(20), async || {
        Ok((open().await? == 1 && !site.process("worker-1")?.runs()).then_some(()))
    })
    .await?;
    site.process("worker-1")?.kill();
    site.client.cancel(&id, "enough", "ana").await?;
    let (record, _) = checks::ended(&site.client, "k").await?;
    ensure!(record.status == Status::Cancelled, "{record:?}");
    until("it is given back", Duration::from_secs(40), async || Ok((open().await? == 0).then_some(()))).await?;
    site.done();
    Ok(())
}
