//! Rules as operators write and read them, and what comes of those that cannot be read.

use std::sync::Arc;

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_common::types::{Names, event::EventType};
use haltline_tests::{Site, checks, shapes, soon};
use serde_json::json;

use super::{risk_events, rule};
use crate::COMMAND;

#[tokio::test]
async fn rules_are_checked_shown_and_removed() -> anyhow::Result<()> {
    let site = Site::bare(COMMAND).await?;
    let caller = site.caller();
    for (args, part) in [
        (vec!["daily_loss", "--scope", "bot:b", "--limit", "-500"], "limit: -500 is not above zero"),
        (vec!["daily_loss", "--scope", "bot:b", "--limit", "many"], "limit: `many` is not a decimal number"),
        (
            vec!["daily_loss", "--scope", "bot:b", "--limit", "5", "--time-zone", "Mars/Olympus"],
            "time_zone: `Mars/Olympus` is no time zone",
        ),
        (vec!["daily_loss", "--scope", "bot:b", "--limit", "5", "--action", "refuse"], "action: `refuse` is for what actions reserve"),
        (vec!["drawdown_percent", "--scope", "bot:b", "--limit", "10"], "capital: drawdown_percent needs"),
        (vec!["notional_per_window", "--scope", "bot:b", "--limit", "10"], "window: notional_per_window needs one"),
        (vec!["stale_feed", "--scope", "bot:b", "--limit", "30s"], "node: stale_feed needs"),
        (
            vec!["failure_rate", "--scope", "node_type:http", "--limit", "10", "--window", "1h"],
            "scope: failure_rate cannot be told apart by node_type",
        ),
        (vec!["daily_los", "--scope", "bot:b", "--limit", "5"], "`daily_los` is none of"),
        (vec!["daily_loss", "--scope", "fleet:b", "--limit", "5"], "fleet"),
    ] {
        let all: Vec<&str> = ["risk", "set"].into_iter().chain(args).collect();
        let told = caller.call(&all).await?;
        ensure!(told.code == Some(2) && told.err.contains(part), "{all:?}: {told:?}");
    }
    ensure!(caller.call(&["risk", "list"]).await?.out.contains("no rules"), "something was stored");
    let told = caller
        .call(&["risk", "set", "daily_loss", "--scope", "bot:b", "--limit", "500", "--time-zone", "Europe/Berlin", "--by", "ana"])
        .await?;
    ensure!(told.out.starts_with("daily_loss of bot:b: at most 500 money; a breach raises halt of bot:b"), "{told:?}");
    rule(&site, &["exposure", "--scope", "bot:b", "--limit", "1000.50"]).await?;
    let list = caller.call(&["risk", "list", "--json"]).await?.json()?;
    let keys: Vec<_> = list["rules"].as_array().context("no rules")?.iter().map(|r| r["key"].as_str().unwrap_or("?")).collect();
    ensure!(keys == ["risk.bot.b.daily_loss", "risk.bot.b.exposure"], "{list}");
    let got = caller.call(&["risk", "get", "daily_loss", "--scope", "bot:b", "--json"]).await?.json()?;
    ensure!(got["limit"] == "500" && got["by"] == "ana" && got["time_zone"] == "Europe/Berlin", "{got}");
    let status = caller.call(&["risk", "status", "--json"]).await?.json()?;
    ensure!(status["rules"][1]["state"] == "ok" && status["rules"][1]["current"] == "0", "{status}");
    // One rule as a file is the same as one by flags.
    let file = caller.write(&got.to_string())?;
    let told = caller.call(&["risk", "set", "--file", &file]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    let gone = caller.call(&["risk", "delete", "daily_loss", "--scope", "bot:b"]).await?;
    ensure!(gone.code == Some(0), "{gone:?}");
    let gone = caller.call(&["risk", "delete", "daily_loss", "--scope", "bot:b"]).await?;
    ensure!(gone.code == Some(2) && gone.err.contains("there is no rule"), "{gone:?}");
    site.done();
    Ok(())
}

/// What a limit refuses is said, warned of before, and told as events; what does not concern it runs.
#[tokio::test]
async fn a_refusal_names_rule_limit_current_and_asked() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    rule(&site, &["position_size", "--scope", "bot:bot", "--limit", "20", "--action", "alert"]).await?;
    let definition = shapes::chain("order")?;
    let first = site.run(&definition, "1", site.trading()).await?;
    let second = site.run(&definition, "2", site.trading()).await?;
    ensure!(first.status == Status::Completed && second.status == Status::Completed, "{first:?} {second:?}");
    let third = site.run(&definition, "3", site.trading()).await?;
    ensure!(third.status == Status::Failed && third.error_type.as_deref() == Some("RiskLimitExceeded"), "{third:?}");
    let error = third.error.unwrap_or_default();
    ensure!(error.contains("rule `position_size` of bot:bot allows a position_size of 20 units: it is 20 now and would be 30"), "{error}");
    let (_, events) = checks::ended(&site.client, "3").await?;
    ensure!(!events.iter().any(|e| e.kind == EventType::EffectIntended), "{}", checks::kinds(&events).join("\n"));
    ensure!(haltline_tests::ledger::arrivals(&site.ledger(), &third.execution_id, "buy")?.all == 0, "it was sent");
    soon("it is told, and the level raised", async || {
        let told: Vec<_> = risk_events(site.link()).await?.iter().map(|e| e.kind).collect();
        let flag = haltline_common::control::read(site.link(), &"bot:bot".parse().map_err(anyhow::Error::msg)?).await?;
        Ok(told == [EventType::RiskLimitWarning, EventType::RiskLimitBreached] && flag.state.as_str() == "alert")
    })
    .await?;
    let status = site.caller().call(&["risk", "status", "--json"]).await?.json()?;
    ensure!(status["rules"][0]["current"] == "20" && status["rules"][0]["used_percent"] == "100", "{status}");
    // Another bot is not concerned, and selling is always possible.
    let mut other = shapes::chain("other")?;
    other.bot_id = "other".into();
    ensure!(site.run(&other, "4", site.trading()).await?.status == Status::Completed, "another bot was refused");
    let mut sell = shapes::chain("sell")?;
    for node in sell.nodes.iter_mut().filter(|n| n.id == "buy") {
        Arc::make_mut(&mut node.params).insert("side".into(), json!("sell"));
    }
    ensure!(site.run(&sell, "5", site.trading()).await?.status == Status::Completed, "selling was refused");
    ensure!(site.run(&definition, "6", site.trading()).await?.status == Status::Completed, "what was sold makes no room");
    site.done();
    Ok(())
}

/// A rule that cannot be read, and a record that was deleted, refuse instead of limiting nothing.
#[tokio::test]
async fn what_cannot_be_read_refuses() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let (definition, link) = (shapes::chain("order")?, site.link().clone());
    ensure!(site.run(&definition, "1", site.trading()).await?.status == Status::Completed, "without rules");
    let bad = Names::kv_subject(&link.names.control_bucket(), "risk.bot.bot.exposure");
    link.js.publish(bad, r#"{"limit":"lots"}"#.into()).await?.await?;
    let refused = |error_type: &'static str, part: &'static str, key: &'static str| {
        let (site, definition) = (&site, &definition);
        async move {
            let outcome = site.run(definition, key, site.trading()).await?;
            ensure!(outcome.error_type.as_deref() == Some(error_type), "{outcome:?}");
            let error = outcome.error.unwrap_or_default();
            ensure!(error.contains(part), "{error}");
            anyhow::Ok(())
        }
    };
    refused("RiskUncountable", "the risk rule risk.bot.bot.exposure cannot be read", "2").await?;
    let status = site.caller().call(&["risk", "status"]).await?;
    ensure!(status.out.contains("it cannot be read, so the side effects of bot:bot are refused"), "{status:?}");
    rule(&site, &["exposure", "--scope", "bot:bot", "--limit", "100000"]).await?;
    // Money is limited, and nothing bounds the price.
    refused("InvalidInput", "`worst_price` is needed: rule `exposure` of bot:bot limits money", "3").await?;
    rule(&site, &["actions_per_minute", "--scope", "global", "--limit", "100"]).await?;
    let gone = site.caller().call(&["risk", "delete", "exposure", "--scope", "bot:bot"]).await?;
    ensure!(gone.code == Some(0), "{gone:?}");
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    let key = Names::kv_subject(&link.names.risk_bucket(), "reserved.global");
    link.js.publish_with_headers(key, headers, Vec::new().into()).await?.await?;
    refused("RiskUncountable", "reserved.global was deleted, so nobody knows what global has spent", "4").await?;
    let told = site.caller().call(&["risk", "reset", "--scope", "global"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    ensure!(site.run(&definition, "5", site.trading()).await?.status == Status::Completed, "after a reset");
    site.done();
    Ok(())
}
