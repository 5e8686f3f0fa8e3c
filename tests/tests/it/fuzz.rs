//! Random input to a live gateway: whatever one client sends is answered, or ends that client's connection with a
//! code of PROTOCOL.md, and nobody else notices.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use haltline_common::types::feed::{From, IfGap, Mode, PROTOCOL, ServerFrame};
use haltline_tests::{Site, until};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::{
    COMMAND,
    oracle::{
        client::{Client, Want},
        run::Rng,
    },
};

/// A socket of another library.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connections of one run, each with several frames.
const CONNECTIONS: u64 = 120;
/// An answer comes within this time on a busy machine.
pub const WITHIN: Duration = Duration::from_secs(20);
const SENTINEL: u64 = 4242;

/// The close codes that the protocol's document lists.
fn documented() -> anyhow::Result<BTreeSet<u16>> {
    let text = include_str!("../../../gateway/PROTOCOL.md");
    let table = text.split("## Close codes").nth(1).and_then(|t| t.split("\n## ").next()).context("no close codes")?;
    let codes: BTreeSet<u16> = table.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
    ensure!(codes.len() >= 10, "{codes:?}");
    Ok(codes)
}

/// A value that a field may or may not take.
pub fn value(rng: &mut Rng, depth: u64) -> Value {
    let texts =
        ["", "s", "a b", "é\u{0}\"", "00000007.9.-", "ffffffff.18446744073709551614.-", "node_*", "x.y", "reject", "2026-01-01T00:00:00Z"];
    match rng.below(if depth > 0 { 9 } else { 6 }) {
        0 => Value::Null,
        1 => json!(rng.below(2) == 0),
        2 => json!(rng.next()),
        3 => json!(-(rng.below(1000) as i64)),
        4 => json!(texts[rng.below(texts.len() as u64) as usize]),
        5 => json!("y".repeat(rng.below(400) as usize)),
        6 => (0..rng.below(4)).map(|_| value(rng, depth - 1)).collect(),
        _ => {
            let names = ["live", "cursor", "seq", "last", "since", "snapshot", "workflow", "type", "and", "or", "not", "prefix", "zzz"];
            (0..rng.below(4)).map(|_| (names[rng.below(names.len() as u64) as usize].to_owned(), value(rng, depth - 1))).collect()
        }
    }
}

/// A frame: mostly nearly right.
fn frame(rng: &mut Rng, rid: u64) -> Message {
    let sub = json!({ "t": "sub", "rid": rid, "id": format!("s{rid}"), "filter": { "workflow": ["a", { "prefix": "b" }], "not": { "type": ["*_failed"] } }, "from": { "last": 3 } });
    let mut good = match rng.below(8) {
        0 => json!({ "t": "unsub", "rid": rid, "id": "s1" }),
        1 => json!({ "t": "auth", "rid": rid, "token": "hlt_000000000000_nothing" }),
        2 => json!({ "t": "pong" }),
        3 => json!({ "t": "hello", "v": 1, "rid": rid }),
        _ => sub,
    };
    match rng.below(24) {
        0 => Message::Text((0..rng.below(60)).filter_map(|_| char::from_u32(rng.below(0x500) as u32)).collect::<String>().into()),
        1 => {
            // A frame with some characters replaced.
            let mut chars: Vec<char> = good.to_string().chars().collect();
            for _ in 0..=rng.below(4) {
                let at = rng.below(chars.len() as u64) as usize;
                chars[at] = char::from_u32(32 + rng.below(95) as u32).unwrap_or('?');
            }
            Message::Text(chars.into_iter().collect::<String>().into())
        }
        2 if rng.one_in(4) => Message::Binary((0..rng.below(50)).map(|_| rng.next() as u8).collect::<Vec<u8>>().into()),
        2 if rng.one_in(4) => Message::Text("[".repeat(60_000).into()),
        2 if rng.one_in(4) => Message::Text("x".repeat(70_000).into()),
        3 => Message::Text(value(rng, 3).to_string().into()),
        4..=14 => {
            let fields = ["t", "id", "filter", "from", "if_gap", "mode", "v", "token", "surplus"];
            good[fields[rng.below(fields.len() as u64) as usize]] = value(rng, 4);
            Message::Text(good.to_string().into())
        }
        _ => Message::Text(good.to_string().into()),
    }
}

/// Whether a frame has to be answered with its `rid`.
fn answered(frame: &Message) -> Option<u64> {
    let Message::Text(text) = frame else { return None };
    let value: Value = serde_json::from_str(text).ok()?;
    value["t"].as_str().filter(|t| matches!(*t, "sub" | "unsub" | "auth"))?;
    value.is_object().then(|| value["rid"].as_u64()).flatten()
}

/// What became of a connection: the code it was closed with, or `None` if it answered to the end.
async fn ended(mut socket: Socket, mut due: BTreeSet<u64>) -> anyhow::Result<Option<u16>> {
    loop {
        let message = tokio::time::timeout(WITHIN, socket.next()).await.with_context(|| format!("no answer; due are {due:?}"))?;
        match message {
            Some(Ok(Message::Text(text))) => {
                let frame: ServerFrame = serde_json::from_str(&text).with_context(|| text.to_string())?;
                let rid = match frame {
                    ServerFrame::Err(e) => {
                        ensure!(!e.msg.is_empty(), "an error without a word");
                        e.rid
                    }
                    ServerFrame::Subd(s) => s.rid,
                    ServerFrame::Unsubd(u) => u.rid,
                    ServerFrame::Authed(a) => a.rid,
                    _ => None,
                };
                due.retain(|r| Some(*r) != rid);
                if rid == Some(SENTINEL) {
                    ensure!(due.is_empty(), "not answered: {due:?}");
                    return Ok(None);
                }
            }
            Some(Ok(Message::Close(Some(close)))) => return Ok(Some(close.code.into())),
            Some(Ok(Message::Close(None))) | None => bail!("closed without a code"),
            Some(Ok(_)) => {}
            Some(Err(e)) => bail!("cut off: {e}"),
        }
    }
}

/// A socket, with a subprotocol or not.
pub async fn open(url: &str, protocol: Option<&str>) -> anyhow::Result<Socket> {
    let mut request = url.into_client_request()?;
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse()?);
    }
    Ok(connect_async(request).await?.0)
}

/// Stores the event `n` of the workflow `a`.
pub async fn publish(site: &Site, n: u64) -> anyhow::Result<()> {
    let event = json!({ "type": "node_completed", "id": n.to_string(), "execution_id": "exec_a_0", "workflow_id": "a", "bot_id": "", "strategy_id": "" });
    site.link().js.publish(site.link().names.note("exec_a_0"), event.to_string().into()).await?.await?;
    Ok(())
}

/// Everybody who behaves gets everything, and nothing has panicked.
pub async fn unharmed(site: &mut Site, witness: &Client, published: u64) -> anyhow::Result<()> {
    until("the witness has all events", WITHIN, async || {
        let frames = witness.current().map(|c| c.frames()).unwrap_or_default();
        let counts: Vec<u64> = frames.iter().filter_map(|f| if let ServerFrame::Ev(e) = f { Some(e.s["w"]) } else { None }).collect();
        ensure!(counts.iter().copied().eq(1..=counts.len() as u64), "counters with holes: {counts:?}");
        Ok((counts.len() as u64 == published).then_some(()))
    })
    .await?;
    ensure!(witness.connections.len() == 1 && !witness.current().is_none_or(|c| c.ended()), "the witness was cut off");
    let log = site.process("gateway")?.log();
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}

/// A client that behaves, and follows the workflow `a`.
pub async fn witness(site: &Site) -> anyhow::Result<Client> {
    let filter = serde_json::from_value(json!({ "workflow": ["a"] }))?;
    let want = Want { filter, from: From::Live(true), if_gap: IfGap::Continue, mode: Mode::Lossless };
    let mut client = Client::new(BTreeMap::from([("w".to_owned(), want)]));
    client.connect(&format!("{}/v1/ws", ws(site))).await?;
    Ok(client)
}

/// The gateway's address for sockets.
pub fn ws(site: &Site) -> String {
    site.gateway_url().replacen("http", "ws", 1)
}

#[tokio::test]
async fn whatever_a_client_sends_is_answered_or_ends_its_connection_and_no_other() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_gateway(None).await?;
    let (codes, url) = (documented()?, format!("{}/v1/ws", ws(&site)));
    let watching = witness(&site).await?;
    let mut seen: BTreeMap<Option<u16>, u32> = BTreeMap::new();
    for n in 0..CONNECTIONS {
        let rng = &mut Rng::new(n + 1);
        let mut socket = open(&url, Some(PROTOCOL)).await?;
        let hello = json!({ "t": "hello", "v": 1 });
        let mut frames = if rng.one_in(8) { vec![] } else { vec![Message::Text(hello.to_string().into())] };
        frames.extend((0..=rng.below(6)).map(|i| frame(rng, n * 10 + i)));
        let due = frames.iter().filter_map(answered).collect();
        frames.push(Message::Text(json!({ "t": "unsub", "rid": SENTINEL, "id": "none" }).to_string().into()));
        for frame in &frames {
            // It may have been closed by now.
            if socket.send(frame.clone()).await.is_err() {
                break;
            }
        }
        publish(&site, n).await?;
        let end = ended(socket, due).await.with_context(|| format!("connection {n}: {frames:.300?}"))?;
        ensure!(end.is_none_or(|code| codes.contains(&code)), "connection {n} was closed with {end:?}: {frames:.300?}");
        *seen.entry(end).or_default() += 1;
    }
    eprintln!("{CONNECTIONS} connections ended as {seen:?}");
    ensure!(seen.get(&None).is_some_and(|n| *n > 20) && seen.contains_key(&Some(4509)) && seen.contains_key(&Some(4513)), "{seen:?}");
    unharmed(&mut site, &watching, CONNECTIONS).await?;
    site.done();
    Ok(())
}
