//! Every way in which the emergency controller failed that Haltline replaces, as a test named after it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use haltline_client::{Code, Status};
use haltline_common::types::{
    control::{Level, OnHalt, Scope},
    definition::Definition,
    event::{Event, EventType},
};
use haltline_tests::{
    Site, checks, http, ledger, shapes, soon, until,
    venue::{Mood, Venue},
};
use serde_json::{Value, json};

use crate::COMMAND;

/// All events about control flags, in order.
async fn flag_events(site: &Site) -> anyhow::Result<Vec<Event>> {
    let link = site.link();
    let (stream, subject) = (link.js.get_stream_no_info(link.names.events_stream()).await?, link.names.control_events());
    let (mut all, mut from) = (Vec::new(), 1);
    while let Ok(m) = stream.get_first_raw_message_by_subject(&subject, from).await {
        from = m.sequence + 1;
        all.push(serde_json::from_slice(&m.payload).with_context(|| format!("{:?}", m.payload))?);
    }
    Ok(all)
}

/// A workflow that thinks and then buys.
fn trade(id: &str, think: &str) -> anyhow::Result<Definition> {
    shapes::workflow(
        id,
        json!([
            { "id": "think", "type": "sleep", "params": { "duration": think } },
            { "id": "buy", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM" },
              "inputs": { "market": { "input": "market" } }, "depends_on": ["think"], "retry": { "attempts": 1 } },
        ]),
    )
}

async fn refused(site: &Site, definition: &Definition, key: &str) -> anyhow::Result<bool> {
    match site.client.submit(shapes::submission(definition, key, site.trading())).await {
        Ok(_) => Ok(false),
        Err(e) => {
            ensure!(e.code == Code::EmergencyHalted, "{e:?}");
            Ok(true)
        }
    }
}

#[tokio::test]
async fn alert_after_halt_re_enables_trading() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let chain = trade("trade", "1ms")?;
    site.client.put_workflow(&chain).await?;
    let halt = site.client.raise(&Scope::Global, Level::Halt, "first", "stop").await?;
    ensure!(halt.flag().state == Level::Halt && !halt.flag().verified, "{halt:?}");
    let alert = site.client.raise(&Scope::Global, Level::Alert, "second", "only watch").await?;
    ensure!(alert.flag().state == Level::Halt, "an alert lowered a halt: {alert:?}");
    soon("the coordinator has seen it", async || refused(&site, &chain, "a").await).await?;
    let told = site.caller().call(&["halt", "--level", "alert", "--reason", "by command", "--wait", "5s"]).await?;
    ensure!(told.code == Some(0) && site.client.flag().await?.state == Level::Halt, "{told:?}");
    ensure!(refused(&site, &chain, "b").await?, "accepted");
    site.done();
    Ok(())
}

#[tokio::test]
async fn resume_leaves_shutdown_freely() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let stored = site.client.raise(&Scope::Bot("b1".into()), Level::Shutdown, "op", "for good").await?;
    let resume = ["resume", "--scope", "bot:b1", "--reason", "go on"];
    let told = site.caller().call(&resume).await?;
    ensure!(told.code != Some(0) && told.err.contains("confirmation"), "{told:?}");
    let told = site.caller().call(&[&resume[..], &["--confirm", "global"]].concat()).await?;
    ensure!(told.code != Some(0), "another scope's name is no confirmation: {told:?}");
    // Nor does a revision that is not the one stored.
    let earlier = (stored.revision - 1).to_string();
    let told = site.caller().call(&[&resume[..], &["--confirm", "bot:b1", "--revision", &earlier]].concat()).await?;
    ensure!(told.code != Some(0), "{told:?}");
    ensure!(site.client.flag_of(&Scope::Bot("b1".into())).await?.revision == stored.revision, "a refused resume changed something");
    let told = site.caller().call(&[&resume[..], &["--confirm", "bot:b1"]].concat()).await?;
    ensure!(told.code == Some(0), "{told:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_crash_loses_the_halt() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let chain = trade("trade", "1ms")?;
    site.client.put_workflow(&chain).await?;
    let told = site.caller().call(&["halt", "--reason", "before the crash"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    site.process("coordinator")?.kill();
    site.process("worker-1")?.kill();
    site.nats.kill();
    site.nats.up().await?;
    site.spawn("coordinator-2", &["coordinator"], None)?;
    site.spawn("worker-2", &["worker"], None)?;
    let (client, submission) = (site.client.clone(), shapes::submission(&chain, "after", site.trading()));
    until("everything runs again", Duration::from_secs(60), async || match client.submit(submission.clone()).await {
        Ok(_) => anyhow::bail!("accepted after the crash"),
        Err(e) => Ok((e.code == Code::EmergencyHalted && e.message.contains("before the crash")).then_some(())),
    })
    .await?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn state_per_process_not_distributed() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    for name in ["worker-2", "worker-3"] {
        site.spawn(name, &["worker"], None)?;
    }
    site.ready(3).await?;
    let told = site.caller().call(&["halt", "--reason", "everywhere", "--json"]).await?;
    let all = told.json()?;
    ensure!(told.code == Some(0), "{told:?}");
    ensure!(all["confirmation"]["confirmed"] == 3 && all["confirmation"]["workers"] == 3, "{all}");
    let revision = all["flag"]["revision"].as_u64().context("a revision")?;
    soon("each worker tells the flag that it obeys", async || {
        Ok(site.client.workers().await?.iter().filter(|w| w.gate == "halted" && w.control_revision == revision).count() == 3)
    })
    .await?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn no_scopes() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let chain = trade("trade", "1ms")?;
    site.client.put_workflow(&chain).await?;
    let submit = async |key: &str, bot: &str, strategy: &str| {
        let mut s = shapes::submission(&chain, key, site.trading());
        s.bot_id = Some(bot.into());
        s.strategy_id = Some(strategy.into());
        site.client.submit(s).await
    };
    let cases = ["bot:b.1", "strategy:s1", "workflow:trade", "venue:paper", "node_type:paper_order"];
    for (n, scope) in cases.into_iter().enumerate() {
        let told = site.caller().call(&["halt", "--scope", scope, "--reason", "only this"]).await?;
        ensure!(told.code == Some(0), "{scope}: {told:?}");
        soon("what is in scope is refused", async || {
            let e = submit(&format!("in-{n}-{}", crate::halt::uniq()), "b.1", "s1").await.err();
            Ok(e.is_some_and(|e| e.code == Code::EmergencyHalted && e.detail["scope"] == scope))
        })
        .await?;
        // Another bot and strategy go on, unless the scope has them, too.
        let other = submit(&format!("out-{n}"), "b2", "s2").await;
        ensure!(other.is_ok() == (n < 2), "{scope}: {other:?}");
        if other.is_ok() {
            let (record, _) = checks::ended(&site.client, &format!("out-{n}")).await?;
            ensure!(record.status == Status::Completed, "{scope}: {:?} {:?}", record.status, record.reason);
        }
        let told = site.caller().call(&["resume", "--scope", scope, "--reason", "over"]).await?;
        ensure!(told.code == Some(0), "{scope}: {told:?}");
        soon("it is accepted again", async || Ok(submit(&format!("again-{n}-{}", crate::halt::uniq()), "b.1", "s1").await.is_ok())).await?;
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn nothing_calls_the_risk_check_and_the_automated_halt_is_manual() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    // Nobody presses anything: what fails again and again halts its bot by itself.
    let set = ["risk", "set", "consecutive_failures", "--scope", "bot:b1", "--limit", "2", "--action", "halt"];
    let told = site.caller().call(&set).await?;
    ensure!(told.code == Some(0), "{told:?}");
    let mut failing =
        shapes::workflow("failing", json!([{ "id": "no", "type": "fail", "params": { "message": "no" }, "retry": { "attempts": 1 } }]))?;
    failing.bot_id = "b1".into();
    for n in 0..3 {
        site.submit(&failing, &format!("fails-{n}"), json!({})).await?;
    }
    soon("the bot is halted", async || Ok(site.client.flag_of(&Scope::Bot("b1".into())).await?.state == Level::Halt)).await?;
    let mut chain = trade("trade", "1ms")?;
    chain.bot_id = "b1".into();
    site.client.put_workflow(&chain).await?;
    soon("its orders are refused", async || refused(&site, &chain, "after").await).await?;
    ensure!(site.client.flag().await?.state == Level::Normal, "it halted everything");
    site.done();
    Ok(())
}

#[tokio::test]
async fn state_change_never_reaches_the_event_bus() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let told = site.caller().call(&["halt", "--reason", "tell everyone", "--by", "op"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    let told = site.caller().call(&["halt", "--scope", "bot:b1", "--level", "reducing", "--reason", "a part"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    until("changes and confirmations are told", Duration::from_secs(20), async || Ok((flag_events(&site).await?.len() >= 4).then_some(())))
        .await?;
    let events = flag_events(&site).await?;
    let changed: Vec<_> = events.iter().filter(|e| e.kind == EventType::EmergencyStateChanged).collect();
    ensure!(changed.len() == 2, "{events:?}");
    let states = |e: &Event| (e.previous_state.clone().unwrap_or_default(), e.new_state.clone().unwrap_or_default());
    ensure!(states(changed[0]) == ("normal".into(), "halt".into()) && changed[0].reason.as_deref() == Some("tell everyone"), "{changed:?}");
    ensure!(states(changed[1]) == ("normal".into(), "reducing".into()) && changed[1].bot_id == "b1", "{changed:?}");
    for change in changed {
        let confirmed = events.iter().find(|e| e.kind == EventType::HaltConfirmed && e.revision == change.revision);
        ensure!(confirmed.is_some_and(|e| e.workers == Some(1) && e.confirmed == Some(1)), "{events:?}");
    }
    // And it is on record, in a chain that holds.
    let told = site.caller().call(&["audit", "verify", "--json"]).await?;
    let found = told.json()?;
    ensure!(told.code == Some(0) && found["entries"].as_u64() >= Some(5), "{told:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_slow_handler_delays_the_next_halt_by_its_whole_duration() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn("worker-2", &["worker"], None)?;
    site.ready(2).await?;
    // Whoever should act on the first halt does not: a coordinator, which tells events, and a worker.
    site.process("coordinator")?.pause(true);
    site.process("worker-2")?.pause(true);
    let first = site.client.raise(&Scope::Bot("b1".into()), Level::Halt, "op", "first").await?;
    let began = Instant::now();
    let second = site.client.raise(&Scope::Global, Level::Halt, "op", "second").await?;
    ensure!(second.revision > first.revision, "{second:?}");
    soon("the other worker obeys the second one", async || {
        Ok(site.client.workers().await?.iter().any(|w| w.gate == "halted" && w.control_revision == second.revision))
    })
    .await?;
    ensure!(began.elapsed() < Duration::from_secs(4), "it took {:?}", began.elapsed());
    site.process("coordinator")?.pause(false);
    site.process("worker-2")?.pause(false);
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_second_halts_reason_is_dropped() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    site.client.raise(&Scope::Global, Level::Halt, "one", "prices are wrong").await?;
    let second = site.client.raise(&Scope::Global, Level::Halt, "two", "and the venue is down").await?;
    let flag = site.client.flag().await?;
    ensure!(flag.reason == "prices are wrong; and the venue is down" && flag.revision == second.revision, "{flag:?}");
    // Also that of a lesser one.
    site.client.raise(&Scope::Global, Level::Reducing, "three", "sell only").await?;
    let flag = site.client.flag().await?;
    ensure!(flag.state == Level::Halt && flag.reason.contains("sell only"), "{flag:?}");
    // Two at the same moment: neither is lost.
    let (a, b) = tokio::join!(
        site.client.raise(&Scope::Global, Level::Halt, "four", "reason four"),
        site.client.raise(&Scope::Global, Level::Shutdown, "five", "reason five")
    );
    a?;
    b?;
    let flag = site.client.flag().await?;
    ensure!(flag.state == Level::Shutdown && flag.reason.contains("reason four") && flag.reason.contains("reason five"), "{flag:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_halt_in_the_middle_of_a_node_and_the_execution_reports_completed() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    // Its action is over; what is left does nothing outside.
    let mut last = shapes::workflow(
        "last",
        json!([
            { "id": "buy", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM" },
              "inputs": { "market": { "input": "market" } } },
            { "id": "last", "type": "sleep", "params": { "duration": "1500ms" }, "depends_on": ["buy"] },
        ]),
    )?;
    for (n, on_halt) in [None, Some(OnHalt::Abort)].into_iter().enumerate() {
        last.version = format!("{n}").into();
        last.on_halt = on_halt;
        let key = format!("last-{n}");
        let id = site.submit(&last, &key, site.trading()).await?;
        soon("the last node runs", async || Ok(checks::seen(&site.client, &id, "node_started", "last").await?.is_some())).await?;
        let told = site.caller().call(&["halt", "--reason", "in the middle"]).await?;
        ensure!(told.code == Some(0), "{told:?}");
        let (record, events) = checks::ended(&site.client, &key).await?;
        ensure!(record.status == Status::Halted, "{:?}\n{}", record.status, checks::kinds(&events).join("\n"));
        ensure!(record.reason.as_deref().is_some_and(|r| r.contains("in the middle")), "{:?}", record.reason);
        let told = site.caller().call(&["resume", "--reason", "over"]).await?;
        ensure!(told.code == Some(0), "{told:?}");
        soon("it is resumed", async || Ok(site.client.workers().await?.iter().all(|w| w.gate == "open"))).await?;
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn the_dashboards_halt_button_changes_only_the_page() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    site.spawn_gateway(None).await?;
    let (url, client) = (site.gateway_url(), http::client()?);
    let body = json!({ "state": "halt", "reason": "the button", "wait": "5s" });
    let (status, answer) = http::answer(client.put(format!("{url}/v1/control/global")).json(&body)).await?;
    ensure!(status == 200 && answer["state"] == "halt" && answer["confirmation"]["complete"] == true, "{status} {answer}");
    ensure!(site.client.flag().await?.reason == "the button", "it is not stored");
    let chain = trade("trade", "1ms")?;
    site.client.put_workflow(&chain).await?;
    soon("it is refused", async || refused(&site, &chain, "a").await).await?;
    // While it is halted the gateway is in order: a balancer must not take it away.
    let (status, answer) = http::answer(client.get(format!("{url}/health"))).await?;
    ensure!(status == 200, "{status} {answer}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn execution_started_is_emitted_before_the_check_so_a_refused_run_looks_started() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let chain = trade("trade", "1ms")?;
    site.client.put_workflow(&chain).await?;
    let told = site.caller().call(&["halt", "--scope", "workflow:trade", "--reason", "not now"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    soon("it is refused", async || refused(&site, &chain, "a").await).await?;
    let stored = async || -> anyhow::Result<(u64, usize)> {
        let subjects = haltline_common::js::api::<Value>(
            site.link(),
            &format!("STREAM.INFO.{}", site.link().names.events_stream()),
            &json!({ "subjects_filter": ">" }),
        )
        .await?;
        let control = site.link().names.control_events();
        let of_runs = subjects["state"]["subjects"].as_object().map_or(0, |s| s.keys().filter(|k| **k != control).count());
        Ok((of_runs as u64, site.client.executions(1000).await?.len()))
    };
    let before = stored().await?;
    for n in 0..5 {
        ensure!(refused(&site, &chain, &format!("b-{n}")).await?, "accepted");
    }
    ensure!(stored().await? == before, "a refused run left something: {before:?} {:?}", stored().await?);
    site.done();
    Ok(())
}

#[tokio::test]
async fn what_holds_waits_and_goes_on_and_a_stale_input_is_refused() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let mut holds = trade("holds", "700ms")?;
    holds.on_halt = Some(OnHalt::Hold);
    let mut stale = trade("stale", "700ms")?;
    stale.on_halt = Some(OnHalt::Hold);
    stale.nodes[0] = serde_json::from_value(json!({ "id": "think", "type": "sleep", "params": { "duration": "700ms" } }))?;
    stale.nodes[1].max_input_age = Some("1s".parse().map_err(anyhow::Error::msg)?);
    stale.nodes[1].inputs.insert("note".into(), serde_json::from_value(json!({ "node": "think", "output": "slept_ms" }))?);
    let a = site.submit(&holds, "holds", site.trading()).await?;
    let b = site.submit(&stale, "stale", site.trading()).await?;
    soon("both think", async || {
        let one = checks::seen(&site.client, &a, "node_started", "think").await?;
        Ok(one.and(checks::seen(&site.client, &b, "node_started", "think").await?).is_some())
    })
    .await?;
    let told = site.caller().call(&["halt", "--reason", "wait"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    soon("both have thought", async || {
        let one = checks::seen(&site.client, &a, "node_completed", "think").await?;
        Ok(one.and(checks::seen(&site.client, &b, "node_completed", "think").await?).is_some())
    })
    .await?;
    // Long enough for a task to give its slot back, and for an input to be too old.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for id in [&a, &b] {
        ensure!(ledger::arrivals(&site.ledger(), id, "buy")?.all == 0, "an order was placed during the halt");
    }
    let told = site.caller().call(&["resume", "--reason", "go on"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    let (record, events) = checks::ended(&site.client, "holds").await?;
    ensure!(record.status == Status::Completed, "{:?} {:?}\n{}", record.status, record.reason, checks::kinds(&events).join("\n"));
    ensure!(ledger::arrivals(&site.ledger(), &a, "buy")?.filled == 1, "the order");
    let (record, _) = checks::ended(&site.client, "stale").await?;
    ensure!(
        record.status == Status::Failed && record.error_type.as_deref() == Some("StaleInput"),
        "{:?} {:?}",
        record.status,
        record.error
    );
    ensure!(ledger::arrivals(&site.ledger(), &b, "buy")?.all == 0, "acted on a stale input");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_silent_worker_is_named_and_a_halt_waits_for_its_lease() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn("worker-2", &["worker"], None)?;
    site.ready(2).await?;
    site.process("worker-2")?.pause(true);
    let told = site.caller().call(&["halt", "--reason", "one is silent", "--wait", "200ms", "--json"]).await?;
    let all = told.json()?;
    ensure!(told.code == Some(3) && all["confirmation"]["complete"] == false, "{told:?}");
    let silent = all["confirmation"]["each"].as_array().and_then(|w| w.iter().find(|w| w["standing"] == "silent")).cloned();
    ensure!(silent.is_some(), "{all}");
    // Its lease, if it had one, has come to its end: nothing can start, and it had nothing in flight.
    let told = site.caller().call(&["halt", "--watch", "--wait", "5s", "--json"]).await?;
    let all = told.json()?;
    ensure!(told.code == Some(0) && all["confirmation"]["complete"] == true && all["confirmation"]["confirmed"] == 1, "{told:?}");
    site.process("worker-2")?.pause(false);
    site.done();
    Ok(())
}

#[tokio::test]
async fn what_is_in_flight_is_named_until_it_is_settled() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    let venue = Venue::start(Mood::Silent).await?;
    let slow = shapes::workflow(
        "slow",
        json!([{ "id": "post", "type": "http", "params": { "url": format!("{}/slow", venue.url), "method": "POST", "timeout": "4s" },
                 "timeout": "6s", "retry": { "attempts": 1 } }]),
    )?;
    let id = site.submit(&slow, "slow", json!({})).await?;
    soon("it is being performed", async || Ok(checks::seen(&site.client, &id, "effect_intended", "post").await?.is_some())).await?;
    let told = site.caller().call(&["halt", "--reason", "in flight", "--wait", "500ms", "--json"]).await?;
    let all = told.json()?;
    ensure!(told.code == Some(3), "{told:?}");
    let named = all["confirmation"]["each"][0]["open"][0].clone();
    ensure!(named["execution_id"] == id.as_str() && named["node_id"] == "post", "{all}");
    // Killed, it says nothing more: the log knows what it had begun.
    site.process("worker-1")?.kill();
    let told = site.caller().call(&["halt", "--reason", "still", "--wait", "3s", "--json"]).await?;
    ensure!(told.code == Some(3) && told.out.contains(&id), "{told:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn what_a_dead_worker_did_is_found_out_during_the_halt() -> anyhow::Result<()> {
    tokio::try_join!(
        asked("worker.effect_done", OnHalt::Hold),
        asked("worker.effect", OnHalt::Hold),
        asked("worker.effect_done", OnHalt::Abort),
        asked("worker.effect", OnHalt::Abort)
    )?;
    Ok(())
}

/// A worker dies with an order of which nobody knows, and everything is halted before another one has the task.
async fn asked(fault: &str, on_halt: OnHalt) -> anyhow::Result<()> {
    let sent = fault == "worker.effect_done";
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_market().await?;
    site.spawn("coordinator", &["coordinator"], None)?;
    site.spawn("worker-1", &["worker", "--id", "worker-1"], Some(fault))?;
    site.ready(1).await?;
    let mut workflow = trade("dead", "10ms")?;
    workflow.on_halt = Some(on_halt);
    let id = site.submit(&workflow, "dead", site.trading()).await?;
    soon("the worker is dead", async || Ok(!site.process("worker-1")?.runs())).await?;
    let told = site.caller().call(&["halt", "--reason", "one died", "--wait", "3s", "--json"]).await?;
    ensure!(told.code == Some(3) && told.out.contains(&id), "{told:?}");
    site.spawn("worker-2", &["worker", "--id", "worker-2"], None)?;
    let told = site.caller().call(&["halt", "--watch", "--wait", "10s", "--json"]).await?;
    ensure!(told.code == Some(0), "{fault}, {on_halt:?}: {told:?}");
    let arrived = ledger::arrivals(&site.ledger(), &id, "buy")?;
    ensure!(arrived.all == usize::from(sent), "{fault}, {on_halt:?}: the order arrived {} times", arrived.all);
    let told = site.caller().call(&["resume", "--reason", "go on"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    let (record, events) = checks::ended(&site.client, "dead").await?;
    let (status, fills) = match on_halt {
        OnHalt::Hold => (Status::Completed, 1),
        OnHalt::Abort => (Status::Halted, usize::from(sent)),
    };
    ensure!(record.unknown_nodes.is_empty(), "{fault}, {on_halt:?}: {:?}", record.unknown_nodes);
    ensure!(
        record.status == status,
        "{fault}, {on_halt:?}: {:?} {:?}\n{}",
        record.status,
        record.reason,
        checks::kinds(&events).join("\n")
    );
    let arrived = ledger::arrivals(&site.ledger(), &id, "buy")?;
    ensure!((arrived.filled, arrived.all) == (fills, fills), "{fault}, {on_halt:?}: {arrived:?}");
    site.done();
    Ok(())
}
