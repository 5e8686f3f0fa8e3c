//! Real prices of autumn 2008 through a paper strategy that buys every day: the drawdown limit halts at the bar
//! that plain arithmetic over the CSV names, also with the coordinator killed there.

use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_common::control;
use haltline_common::types::{
    control::{Level, Scope},
    definition::Definition,
    event::{Event, EventType},
};
use haltline_tests::{Site, checks, http, shapes, until};
use serde_json::{Value, json};

use super::{risk_events, rule};
use crate::COMMAND;

/// The prices that the market replays, as they are committed; `worker/market/data/README.md` names the source.
const PRICES: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../worker/market/data/prices-2008-autumn.csv"));
/// Bought each day.
const QUANTITY: i64 = 10;
/// What the strategy began with, in cents.
const CAPITAL_CENTS: i64 = 2_000_000;
/// Percent.
const DRAWDOWN: i64 = 25;

/// Fault points played here, for the comparison with those of the source.
pub const PLAYED: &[&str] = &["coordinator.breached"];

/// What is killed at the bar.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kill {
    Nothing,
    /// The coordinator, by itself, once the halt is stored and before anything else of it is.
    AtBreach,
    /// The coordinator, as soon as the order of that bar is in the market's ledger.
    AtOrder,
}

/// Closing prices of a symbol, in cents, by date.
fn closes(symbol: &str) -> anyhow::Result<Vec<(String, i64)>> {
    let rows = PRICES.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>()).filter(|row| row[0] == symbol);
    rows.map(|row| {
        let (whole, part) = row[5].split_once('.').unwrap_or((row[5], ""));
        ensure!(part.len() <= 2, "{} is no price in cents", row[5]);
        Ok((row[1].to_owned(), whole.parse::<i64>()? * 100 + format!("{part:0<2}").parse::<i64>()?))
    })
    .collect()
}

/// The first bar at which equity is a quarter or more below its highest, by counting.
fn bar_of_the_halt() -> anyhow::Result<usize> {
    let closes = closes("AAPL")?;
    let (mut spent, mut held, mut highest) = (0, 0, CAPITAL_CENTS);
    for (bar, (_, close)) in closes.iter().enumerate() {
        spent += QUANTITY * close;
        held += QUANTITY;
        let equity = CAPITAL_CENTS - spent + held * close;
        highest = highest.max(equity);
        if (highest - equity) * 100 >= DRAWDOWN * highest {
            return Ok(bar);
        }
    }
    anyhow::bail!("the drawdown is never reached")
}

fn strategy() -> anyhow::Result<Definition> {
    let mut definition = shapes::workflow(
        "averaging",
        json!([
            { "id": "price", "category": "providers", "type": "http", "inputs": { "url": { "input": "price_url" } },
              "params": { "extract": { "close": "/close" } } },
            { "id": "cheap", "category": "conditions", "type": "threshold", "params": { "max": "1000" },
              "inputs": { "value": { "node": "price", "output": "close" } } },
            { "id": "buy", "category": "actions", "type": "paper_order", "params": { "side": "buy", "symbol": "AAPL", "quantity": QUANTITY.to_string() },
              "inputs": { "market": { "input": "market" }, "signal": { "node": "cheap", "output": "pass" } } },
        ]),
    )?;
    definition.bot_id = "autumn".into();
    Ok(definition)
}

/// The dates of the orders that the market filled.
fn bought(site: &Site) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(site.ledger()).unwrap_or_default();
    let arrivals = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    Ok(arrivals.iter().filter(|a| a["outcome"] == "accepted").filter_map(|a| Some(a["date"].as_str()?.to_owned())).collect())
}

/// Plays the autumn until nothing is bought any more: the breach, and how many orders were filled after it.
async fn play(kill: Kill) -> anyhow::Result<(Event, usize)> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_market().await?;
    site.spawn("coordinator", &["coordinator"], (kill == Kill::AtBreach).then_some("coordinator.breached"))?;
    site.spawn("worker-1", &["worker", "--id", "worker-1"], None)?;
    site.ready(1).await?;
    let (limit, capital) = (DRAWDOWN.to_string(), (CAPITAL_CENTS / 100).to_string());
    rule(&site, &["drawdown_percent", "--scope", "bot:autumn", "--limit", &limit, "--capital", &capital]).await?;
    site.client.put_workflow(&strategy()?).await?;

    let (client, http, market) = (site.client.clone(), http::client()?, site.market_url());
    let halt = bar_of_the_halt()?;
    let dates: Vec<String> = closes("AAPL")?.into_iter().map(|(date, _)| date).collect();
    let mut refused_at = None;
    for (bar, date) in dates.iter().enumerate() {
        let input = json!({ "market": market, "price_url": format!("{market}/price/AAPL?date={date}") });
        let submission = shapes::submission(&strategy()?, date, input);
        let killed = kill == Kill::AtOrder && bar == halt;
        if killed {
            client.submit(submission).await?;
            until("the order is there", Duration::from_secs(20), async || Ok((bought(&site)?.len() > bar).then_some(()))).await?;
            site.process("coordinator")?.kill();
            site.spawn("coordinator-2", &["coordinator"], None)?;
            site.tending(checks::ended(&client, date)).await?;
        } else {
            let run = until("the day's execution is taken", Duration::from_secs(30), async || {
                match client.run(submission.clone(), Duration::from_secs(60)).await {
                    Ok(outcome) => Ok(Some(Some(outcome.status))),
                    Err(e) if e.code == haltline_client::Code::EmergencyHalted => Ok(Some(None)),
                    Err(e) if e.code.retryable() => Ok(None),
                    Err(e) => Err(e.into()),
                }
            });
            match site.tending(run).await? {
                Some(Status::Completed) => {}
                refused => {
                    refused_at = Some((bar, refused));
                    break;
                }
            }
        }
        let advanced = http::answer(http.post(format!("{market}/clock/advance")).json(&json!({ "bars": 1 }))).await?;
        ensure!(advanced.0 == 200, "{advanced:?}");
    }
    let (stopped, how) = refused_at.context("the whole autumn was bought")?;
    ensure!(matches!(how, None | Some(Status::Halted)), "bar {stopped} ended {how:?}");

    let breaches = site
        .tending(until("the breach is told", Duration::from_secs(20), async || {
            let all = risk_events(client.link()).await?;
            Ok(all.iter().any(|e| e.kind == EventType::RiskLimitBreached).then_some(all))
        }))
        .await?;
    let breaches: Vec<Event> = breaches.into_iter().filter(|e| e.kind == EventType::RiskLimitBreached).collect();
    ensure!(breaches.len() == 1, "told {} times: {breaches:?}", breaches.len());
    let flag = control::read(client.link(), &Scope::Bot("autumn".into())).await?;
    ensure!(flag.state == Level::Halt && flag.by == "haltline risk" && flag.reason.contains("drawdown_percent"), "{flag:?}");
    ensure!(flag.reason.matches("rule `").count() == 1, "raised more than once for it: {}", flag.reason);
    if kill == Kill::AtBreach {
        // It tells first and dies then.
        let since = std::time::Instant::now();
        while site.process("coordinator")?.killed() == 0 {
            ensure!(since.elapsed() < Duration::from_secs(20), "it did not die");
            site.tend().await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ensure!(site.process("coordinator")?.killed() == 1, "it died more than once");
    }
    // It followed from the order of that very bar.
    let days = bought(&site)?;
    let (record, events) = checks::ended(&client, &dates[halt]).await?;
    let buy = events.iter().find(|e| e.kind == EventType::NodeCompleted && e.node_id.as_deref() == Some("buy")).context("no order")?;
    ensure!(breaches[0].caused_by.as_deref() == Some(&buy.id), "{:?} and not {}", breaches[0].caused_by, buy.id);
    ensure!(record.correlation.bot_id == "autumn" && days[halt] == dates[halt], "{record:?}");
    // How many orders start between the breach and the halt depends on how busy the machine is; that none is
    // intended more than a lease after the halt is stored does not.
    let stored = flag.at.context("when it was halted")?;
    for date in &days[halt + 1..] {
        let (_, events) = checks::ended(&client, date).await?;
        let intended = events.iter().find(|e| e.kind == EventType::EffectIntended).context("no intent")?;
        ensure!(intended.timestamp.millis_since(stored) <= 1000, "{date} was bought {:?}, halted {stored:?}", intended.timestamp);
    }
    let breach = breaches.into_iter().next().context("no breach")?;
    site.done();
    Ok((breach, days.len() - halt - 1))
}

fn percent(event: &Event) -> String {
    event.breach.as_ref().map(|b| b.current.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn the_drawdown_limit_halts_at_the_bar_that_arithmetic_names() -> anyhow::Result<()> {
    let halt = bar_of_the_halt()?;
    let date = closes("AAPL")?[halt].0.clone();
    let (first, late) = play(Kill::Nothing).await?;
    let (second, late_again) = play(Kill::Nothing).await?;
    ensure!(percent(&first) == percent(&second) && first.id == second.id, "{first:?}\n{second:?}");
    println!("bar {halt} ({date}), drawdown {} %; orders filled after it: {late}, {late_again}", percent(&first));
    Ok(())
}

#[tokio::test]
async fn it_halts_there_also_if_the_coordinator_is_killed_at_that_bar() -> anyhow::Result<()> {
    let (at_breach, _) = play(Kill::AtBreach).await?;
    let (at_order, _) = play(Kill::AtOrder).await?;
    ensure!(percent(&at_breach) == percent(&at_order) && at_breach.id == at_order.id, "{at_breach:?}\n{at_order:?}");
    Ok(())
}
