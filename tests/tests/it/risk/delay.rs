//! Between a breach and its halt effects go on starting: how many, and for how long, is measured here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use haltline_client::Code;
use haltline_common::{
    control,
    types::{
        Timestamp,
        control::{Level, Scope},
        event::EventType,
    },
};
use haltline_tests::{Site, http, shapes, until};
use serde_json::{Value, json};

use super::{risk_events, rule};
use crate::COMMAND;

/// Bots that trade as fast as they can.
const BOTS: usize = 8;
/// The trading day before the 29th of September 2008, when AAPL lost 18 %.
const BARS: usize = 18;
/// A busy machine and a debug build; usually some milliseconds.
const DELAY_MS_MAX: u64 = 2_000;

async fn advance(market: &str, bars: usize) -> anyhow::Result<()> {
    let (status, body) = http::answer(http::client()?.post(format!("{market}/clock/advance")).json(&json!({ "bars": bars }))).await?;
    ensure!(status == 200, "{body}");
    Ok(())
}

#[tokio::test]
async fn few_effects_start_between_a_breach_and_its_halt() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let market = site.market_url();
    advance(&market, BARS).await?;
    rule(&site, &["daily_loss", "--scope", "strategy:dips", "--limit", "500"]).await?;
    let mut definition = shapes::chain("fast")?;
    for node in definition.nodes.iter_mut().filter(|n| n.id == "buy") {
        Arc::make_mut(&mut node.params).insert("symbol".into(), json!("AAPL"));
        Arc::make_mut(&mut node.params).insert("quantity".into(), json!("1"));
    }
    site.client.put_workflow(&definition).await?;

    let halted = AtomicBool::new(false);
    let trade = |bot: usize| {
        let (client, definition, input, halted) = (site.client.clone(), &definition, site.trading(), &halted);
        async move {
            for n in 0.. {
                let submission = shapes::submission(definition, &format!("{bot}-{n}"), input.clone());
                match client.run(submission, Duration::from_secs(60)).await {
                    Ok(_) if halted.load(Ordering::Relaxed) => break,
                    Ok(_) => {}
                    Err(e) if e.code == Code::EmergencyHalted => break,
                    Err(e) => return Err(e.into()),
                }
            }
            anyhow::Ok(())
        }
    };
    let crash = async {
        let ledger = site.ledger();
        let filled = || std::fs::read_to_string(&ledger).unwrap_or_default().lines().count();
        until("they have bought", Duration::from_secs(30), async || Ok((filled() >= 100).then_some(()))).await?;
        advance(&market, 1).await?;
        let flag = until("the limit halts", Duration::from_secs(20), async || {
            let flag = control::read(site.link(), &Scope::Strategy("dips".into())).await?;
            Ok((flag.state == Level::Halt).then_some(flag))
        })
        .await?;
        halted.store(true, Ordering::Relaxed);
        anyhow::Ok(flag)
    };
    let (flag, ..) = tokio::try_join!(crash, futures_util::future::try_join_all((0..BOTS).map(trade)))?;

    let breach = until("the breach is told", Duration::from_secs(10), async || {
        Ok(risk_events(site.link()).await?.into_iter().find(|e| e.kind == EventType::RiskLimitBreached))
    })
    .await?;
    let cause = breach.caused_by.context("no cause")?;
    let order = cause.strip_suffix("/result").context("not a node's result")?;
    let text = std::fs::read_to_string(site.ledger())?;
    let arrivals = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let at = arrivals.iter().position(|a| a["key"] == order).context("the order is not in the ledger")?;
    let time = |v: &Value| v.as_str().and_then(|t| Timestamp::parse(t).ok());
    let (broke, stored) = (time(&arrivals[at]["time"]).context("no time")?, flag.at.context("no time")?);
    let (late, delay) = (arrivals.len() - at - 1, stored.millis_since(broke));
    println!("{late} orders arrived after the one that broke the limit, of {}; the halt was written {delay} ms after it", arrivals.len());
    ensure!(delay < DELAY_MS_MAX, "the halt came {delay} ms after the breach");
    // What starts in that time at the rate at which it went on before; half as much again, and what was in flight.
    let began = time(&arrivals[0]["time"]).context("no time")?;
    let rate = at as f64 / broke.millis_since(began).max(1) as f64;
    let bound = (rate * delay as f64 * 1.5) as usize + 4 * BOTS;
    ensure!(late <= bound, "{late} orders after the breach, more than {bound}");
    site.done();
    Ok(())
}
