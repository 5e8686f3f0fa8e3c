//! The failures of the gateway that Haltline replaces, each as a test named after it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use futures_util::{SinkExt, StreamExt};
use haltline_common::types::{
    control::Level,
    feed::{Filter, From, IfGap, Mode, ServerFrame},
};
use haltline_tests::{Site, http, shapes, soon, until};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::{
    COMMAND,
    oracle::client::{Client, Want},
};

fn want(filter: Value, from: From) -> anyhow::Result<Want> {
    let filter: Filter = serde_json::from_value(filter)?;
    Ok(Want { filter, from, if_gap: IfGap::Continue, mode: Mode::Lossless })
}

async fn watching(site: &Site, want: Want) -> anyhow::Result<Client> {
    let mut client = Client::new(BTreeMap::from([("s".to_owned(), want)]));
    client.connect(&ws(site)).await?;
    Ok(client)
}

fn ws(site: &Site) -> String {
    format!("{}/v1/ws", site.gateway_url().replacen("http", "ws", 1))
}

/// Events that a client was given: counters and ids, in order.
fn given(client: &Client) -> Vec<(u64, String)> {
    let frames = client.current().map(|c| c.frames()).unwrap_or_default();
    let event = |f| if let ServerFrame::Ev(e) = f { Some((e.s["s"], e.d["id"].as_str().unwrap_or_default().to_owned())) } else { None };
    frames.into_iter().filter_map(event).collect()
}

fn event(workflow: &str, n: u64, pad: usize) -> (String, String) {
    let execution = format!("exec_{workflow}_{:08x}", n / 10);
    let event = json!({
        "type": "node_completed", "id": format!("{execution}/n{n}/result"), "execution_id": execution, "workflow_id": workflow,
        "bot_id": format!("bot_{workflow}"), "strategy_id": "", "timestamp": "2026-01-01T00:00:00.000Z", "node_id": format!("n{n}"), "pad": "x".repeat(pad),
    });
    (execution, event.to_string())
}

async fn publish(site: &Site, workflow: &str, numbers: std::ops::Range<u64>, pad: usize) -> anyhow::Result<()> {
    let mut acks = Vec::new();
    for n in numbers {
        let (execution, event) = event(workflow, n, pad);
        acks.push(site.link().js.publish(site.link().names.note(&execution), event.into()).await?);
        if acks.len() == 256 {
            for ack in acks.drain(..) {
                ack.await?;
            }
        }
    }
    for ack in acks {
        ack.await?;
    }
    Ok(())
}

async fn gets(client: &Client, count: usize) -> anyhow::Result<Vec<(u64, String)>> {
    until(&format!("{count} events have come"), Duration::from_secs(60), async || {
        let found = given(client);
        Ok((found.len() >= count).then_some(found))
    })
    .await
}

fn in_order(found: &[(u64, String)], ids: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let wanted: Vec<(u64, String)> = (1..).zip(ids).collect();
    ensure!(found == wanted, "{} events, the first that differs: {:?}", found.len(), found.iter().zip(&wanted).find(|(a, b)| a != b));
    Ok(())
}

fn ids(workflow: &str, numbers: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    numbers.map(move |n| format!("exec_{workflow}_{:08x}/n{n}/result", n / 10))
}

async fn with_gateway() -> anyhow::Result<Site> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_gateway(None).await?;
    Ok(site)
}

#[tokio::test]
async fn it_subscribes_before_replaying_duplicates_and_reordering() -> anyhow::Result<()> {
    let site = with_gateway().await?;
    publish(&site, "a", 0..400, 0).await?;
    let published = publish(&site, "a", 400..800, 0);
    let subscribed = async {
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(watching(&site, want(json!({ "workflow": ["a"] }), From::Seq(1))?).await?);
        }
        anyhow::Ok(clients)
    };
    let (published, clients) = tokio::join!(published, subscribed);
    published?;
    for client in &clients? {
        in_order(&gets(client, 800).await?, ids("a", 0..800))?;
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn its_replay_buffer_is_100_events_for_all_workflows() -> anyhow::Result<()> {
    let site = with_gateway().await?;
    publish(&site, "mine", 0..300, 0).await?;
    publish(&site, "others", 0..25_000, 0).await?;
    let client = watching(&site, want(json!({ "workflow": ["mine"] }), From::Seq(1))?).await?;
    in_order(&gets(&client, 300).await?, ids("mine", 0..300))?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_stalled_client_grows_memory_without_bound() -> anyhow::Result<()> {
    const STALLED: usize = 10;
    let mut site = with_gateway().await?;
    // What the gateway keeps for everyone is full before it is looked at.
    publish(&site, "a", 0..20_000, 1000).await?;
    let reader = watching(&site, want(json!({ "workflow": ["a"], "node": [{ "prefix": "n3" }] }), From::Live(true))?).await?;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut request = ws(&site).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", "haltline.v1.json".parse()?);
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await?;
        socket.send(Message::Text(r#"{"t":"hello","v":1}"#.into())).await?;
        socket.send(Message::Text(r#"{"t":"sub","id":"s","from":{"live":true}}"#.into())).await?;
        stalled.push(socket);
    }
    let pid = site.process("gateway")?.pid();
    let rss = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    let before = rss();
    publish(&site, "a", 20_000..40_000, 1000).await?;
    let wanted = (20_000..40_000u64).filter(|n| n.to_string().starts_with('3')).count();
    gets(&reader, wanted).await?;
    let after = rss();
    ensure!(
        after < before + 2 * STALLED as u64 + 16,
        "{before} MB before, {after} MB after 20,000 events of 1 KB to {STALLED} clients that do not read"
    );
    drop(stalled);
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_connect_during_a_broadcast_makes_other_clients_miss_the_event() -> anyhow::Result<()> {
    let site = with_gateway().await?;
    let steady = watching(&site, want(json!({ "workflow": ["a"] }), From::Live(true))?).await?;
    let come_and_go = async {
        for _ in 0..60 {
            let client = watching(&site, want(json!({}), From::Live(true))?).await?;
            client.current().context("connected")?.cut();
        }
        anyhow::Ok(())
    };
    let (published, came) = tokio::join!(publish(&site, "a", 0..3000, 0), come_and_go);
    published?;
    came?;
    in_order(&gets(&steady, 3000).await?, ids("a", 0..3000))?;
    site.done();
    Ok(())
}

/// A gateway that needs tokens, with Socket.IO.
async fn guarded() -> anyhow::Result<Site> {
    let mut site = Site::bare(COMMAND).await?;
    let url = site.gateway_url();
    let port = url.rsplit(':').next().context("a port")?.to_owned();
    site.spawn("gateway", &["gateway", "--port", &port, "--auth", "required", "--socketio"], None)?;
    let client = http::client()?;
    until("the gateway lives", Duration::from_secs(30), async || {
        Ok(client.get(format!("{url}/livez")).send().await.is_ok_and(|r| r.status().is_success()).then_some(()))
    })
    .await?;
    Ok(site)
}

#[tokio::test]
async fn auth_can_be_bypassed_by_authenticate_with_nothing_and_request_state_skips_it() -> anyhow::Result<()> {
    let site = guarded().await?;
    publish(&site, "a", 0..10, 0).await?;
    let url = format!("{}/socket.io/?EIO=4&transport=websocket", site.gateway_url().replacen("http", "ws", 1));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await?;
    let mut said = Vec::new();
    let requests = [
        r#"42["authenticate",{}]"#,
        r#"42["authenticate",{"token":""}]"#,
        r#"42["authenticate",{"token":"x"}]"#,
        r#"42["authenticate"]"#,
        r#"42["subscribe_all_bots",{}]"#,
        r#"42["subscribe_workflow",{"workflow_id":"a"}]"#,
        r#"42["request_state",{"type":"workflow","id":"a"}]"#,
        r#"42["request_stats"]"#,
    ];
    let mut sent = false;
    while said.iter().filter(|(name, _): &&(String, Value)| name == "error" || name == "auth_response").count() < requests.len() {
        let message = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.context("an answer")?.context("the end")??;
        let Message::Text(text) = message else { continue };
        if text.starts_with('0') {
            socket.send(Message::Text("40".into())).await?;
        } else if text.as_str() == "2" {
            socket.send(Message::Text("3".into())).await?;
        } else if let Some(body) = text.strip_prefix("42") {
            let (name, data): (String, Value) = serde_json::from_str(body)?;
            if name == "connected" && !std::mem::replace(&mut sent, true) {
                ensure!(data["auth_required"] == true, "{data}");
                for request in requests {
                    socket.send(Message::Text(request.into())).await?;
                }
            }
            said.push((name, data));
        }
    }
    let answers: Vec<&Value> = said.iter().filter(|(n, _)| n == "auth_response").map(|(_, d)| &d["success"]).collect();
    ensure!(answers == [false, false, false, false], "{said:?}");
    ensure!(said.iter().all(|(n, _)| matches!(n.as_str(), "connected" | "auth_response" | "error")), "{said:?}");
    // The same by the native protocol.
    for token in [None, Some(""), Some("x"), Some("hl_0_0")] {
        let mut request = ws(&site).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", "haltline.v1.json".parse()?);
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await?;
        socket.send(Message::Text(json!({ "t": "hello", "v": 1, "token": token }).to_string().into())).await?;
        let mut closed = None;
        while let Some(Ok(message)) = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.context("an end")? {
            match message {
                Message::Close(frame) => closed = frame.map(|f| u16::from(f.code)),
                Message::Text(text) => ensure!(text.contains(r#""t":"bye""#), "{token:?}: {text}"),
                _ => {}
            }
        }
        ensure!(closed == Some(4501), "{token:?}: closed with {closed:?}");
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn metrics_skip_auth_and_cors_is_a_star() -> anyhow::Result<()> {
    let site = guarded().await?;
    let (client, url) = (http::client()?, site.gateway_url());
    for path in ["/metrics", "/status", "/v1/executions", "/v1/events", "/v1/workers", "/v1/control"] {
        let answer = client.get(format!("{url}{path}")).send().await?;
        ensure!(answer.status() == 401, "{path}: {}", answer.status());
    }
    for path in ["/v1/executions", "/health", "/socket.io/?EIO=4&transport=polling"] {
        let answer = client.get(format!("{url}{path}")).header("origin", "https://elsewhere.example").send().await?;
        let allowed = answer.headers().get("access-control-allow-origin");
        ensure!(allowed.is_none(), "{path}: {allowed:?}");
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn health_is_503_during_a_halt() -> anyhow::Result<()> {
    let site = with_gateway().await?;
    let (client, url) = (http::client()?, site.gateway_url());
    site.client.raise(&Default::default(), Level::Shutdown, "test", "the end").await?;
    soon("the gateway shows it", async || Ok(client.get(format!("{url}/health")).send().await?.text().await?.contains("shutdown"))).await?;
    for path in ["/health", "/readyz", "/livez"] {
        let status = client.get(format!("{url}{path}")).send().await?.status();
        ensure!(status == 200, "{path}: {status}");
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn events_have_no_ids_no_sequence_no_durability() -> anyhow::Result<()> {
    let mut site = with_gateway().await?;
    publish(&site, "a", 0..50, 0).await?;
    let mut client = watching(&site, want(json!({ "workflow": ["a"] }), From::Seq(1))?).await?;
    in_order(&gets(&client, 50).await?, ids("a", 0..50))?;
    site.process("gateway")?.kill();
    site.nats.kill();
    site.nats.up().await?;
    soon("the log takes events again", async || Ok(publish(&site, "a", 50..51, 0).await.is_ok())).await?;
    publish(&site, "a", 51..100, 0).await?;
    site.spawn_gateway(None).await?;
    client.connect(&ws(&site)).await?;
    in_order(&gets(&client, 50).await?, ids("a", 50..100))?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_slow_subscriber_blocks_the_executor_and_bot_subscribers_never_see_the_end() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_gateway(None).await?;
    let nodes = json!([
        { "id": "a", "type": "static", "params": { "outputs": { "x": "1" } } },
        { "id": "b", "type": "static", "params": { "outputs": { "x": "2" } }, "depends_on": ["a"] },
    ]);
    let mut definition = shapes::workflow("slow", nodes)?;
    definition.bot_id = "bot_7".into();
    let stalled = watching(&site, want(json!({}), From::Seq(1))?).await?;
    let bot = watching(&site, want(json!({ "bot": ["bot_7"] }), From::Live(true))?).await?;
    stalled.current().context("connected")?.cut();
    let outcome = site.run(&definition, "k", Value::Null).await?;
    let ended = until("the end comes", Duration::from_secs(20), async || {
        let found = given(&bot);
        Ok(found.iter().any(|(_, id)| *id == format!("{}/ended", outcome.execution_id)).then_some(found))
    })
    .await?;
    ensure!(ended[0].1.ends_with("/started"), "{ended:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_state_change_never_reaches_the_clients_and_a_second_halts_reason_is_dropped() -> anyhow::Result<()> {
    let site = with_gateway().await?;
    let client = watching(&site, want(json!({ "type": ["nothing"] }), From::Live(true))?).await?;
    for (level, reason) in [(Level::Halt, "first"), (Level::Halt, "second"), (Level::Shutdown, "third")] {
        site.client.raise(&Default::default(), level, "test", reason).await?;
    }
    let told = until("all are told", Duration::from_secs(20), async || {
        let frames = client.current().map(|c| c.frames()).unwrap_or_default();
        let halt = |f| if let ServerFrame::Halt(h) = f { Some((h.rev.unwrap_or(0), h.state, h.reason)) } else { None };
        let mut told: Vec<(u64, String, String)> = frames.into_iter().filter_map(halt).collect();
        told.dedup();
        Ok(told.iter().any(|(_, _, reason)| reason.ends_with("third")).then_some(told))
    })
    .await?;
    let stored = site.client.flag().await?;
    ensure!(told.last().map(|t| t.0) == Some(stored.revision), "{told:?}, stored {stored:?}");
    ensure!(told.is_sorted_by_key(|t| t.0), "{told:?}");
    let last = told.last().map(|t| t.2.clone()).unwrap_or_default();
    ensure!(["first", "second", "third"].iter().all(|reason| last.contains(reason)), "{told:?}");
    site.done();
    Ok(())
}
