//! Socket.IO, spoken by hand: what no library would send, and who gets in.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::{SinkExt, StreamExt};
use haltline_common::types::access::{Role, Scopes};
use haltline_tests::{Site, http, until};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    COMMAND,
    fuzz::{Socket, WITHIN, open, publish, unharmed, value, witness, ws},
    oracle::run::Rng,
};

/// Speaks Socket.IO by hand: `0` opens, `2` is a ping and `3` its answer, `40` joins, `41` leaves, `42[...]` is an event.
async fn joined(site: &Site, auth: &str) -> anyhow::Result<Socket> {
    let mut socket = open(&format!("{}/socket.io/?EIO=4&transport=websocket", ws(site)), None).await?;
    socket.send(Message::Text(format!("40{auth}").into())).await?;
    Ok(socket)
}

/// The next event of that name; `None` at the end of the connection.
async fn told(socket: &mut Socket, name: &str) -> anyhow::Result<Option<Value>> {
    told_within(socket, name, WITHIN).await
}

/// The same where nothing may come for so long.
async fn told_within(socket: &mut Socket, name: &str, within: Duration) -> anyhow::Result<Option<Value>> {
    loop {
        match tokio::time::timeout(within, socket.next()).await.with_context(|| format!("no {name}"))? {
            Some(Ok(Message::Text(text))) if text.starts_with("41") => return Ok(None),
            Some(Ok(Message::Text(text))) if text.as_str() == "2" => {
                // Where the other side has ended the connection, what it said before is still to be read.
                let _ = socket.send(Message::Text("3".into())).await;
            }
            Some(Ok(Message::Text(text))) => {
                let Some(event) = text.strip_prefix("42") else { continue };
                let event: Value = serde_json::from_str(event)?;
                if event[0] == name {
                    return Ok(Some(event[1].clone()));
                }
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(None),
            Some(Ok(_)) => {}
        }
    }
}

#[tokio::test]
async fn whatever_a_socket_io_client_sends_harms_nobody_else() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_gateway_with(&["--socketio"]).await?;
    let watching = witness(&site).await?;
    let names =
        ["subscribe_workflow", "subscribe_bot", "unsubscribe", "request_state", "request_stats", "authenticate", "nonsense", "disconnect"];
    for n in 0..60 {
        let rng = &mut Rng::new(n + 77);
        let mut socket = joined(&site, if rng.one_in(3) { "[1" } else { "" }).await?;
        for _ in 0..rng.below(8) {
            let packet = match rng.below(8) {
                // Six bytes whose second begins inside a character; no text at all; an attachment that never comes.
                0 => "éabcd".to_owned(),
                1 => String::new(),
                2 => "451-[\"subscribe_bot\",{\"_placeholder\":true,\"num\":0}]".to_owned(),
                3 => format!("4{}", value(rng, 3)),
                4 => format!("42{}", value(rng, 3)),
                _ => format!("42{}", json!([names[rng.below(names.len() as u64) as usize], value(rng, 3)])),
            };
            if socket.send(Message::Text(packet.into())).await.is_err() {
                break;
            }
        }
        publish(&site, n).await?;
    }
    unharmed(&mut site, &watching, 60).await?;

    // As much as a frame of the WebSocket, and no more, in one packet and in one POST.
    let mut large = joined(&site, "").await?;
    told(&mut large, "connected").await?.context("not connected")?;
    let packet = |bytes: usize| format!("42{}", json!(["subscribe_bot", { "bot_id": "b", "pad": "x".repeat(bytes) }]));
    large.send(Message::Text(packet(60_000).into())).await?;
    told(&mut large, "subscribed").await?.context("60,000 bytes are refused")?;
    let _ = large.send(Message::Text(packet(70_000).into())).await;
    ensure!(told(&mut large, "subscribed").await?.is_none(), "70,000 bytes are taken");
    let http = http::client()?;
    let polling = format!("{}/socket.io/?EIO=4&transport=polling", site.gateway_url());
    let open = http.get(&polling).send().await?.text().await?;
    let open: Value = serde_json::from_str(open.strip_prefix('0').context("no opening")?)?;
    let post = async |body: String| -> anyhow::Result<u16> {
        Ok(http.post(format!("{polling}&sid={}", open["sid"].as_str().unwrap_or_default())).body(body).send().await?.status().as_u16())
    };
    ensure!(post("40".into()).await? == 200, "joining by polling");
    let status = post(packet(70_000)).await?;
    ensure!((400..500).contains(&status), "70,000 bytes by polling: {status}");

    // A flood ends its connection.
    let mut flood = joined(&site, "").await?;
    for _ in 0..2000 {
        if flood.send(Message::Text("42[\"request_stats\"]".into())).await.is_err() {
            break;
        }
    }
    while told(&mut flood, "error").await?.is_some() {}
    unharmed(&mut site, &watching, 60).await?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn tokens_on_socket_io_pass_the_same_guard() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    let scopes = Scopes { bots: vec!["b1".into()], ..Scopes::default() };
    let (token, _) = site.client.create_token("desk", Role::Viewer, scopes, None, "test").await?;
    let (admin, _) = site.client.create_token("admin", Role::Admin, Scopes::default(), None, "test").await?;
    site.spawn_gateway_with(&["--socketio", "--auth", "required"]).await?;

    // Nobody, until somebody has said who; then what the token covers.
    let mut socket = joined(&site, "").await?;
    let hello = told(&mut socket, "connected").await?.context("not connected")?;
    ensure!(hello["auth_required"] == true, "{hello}");
    let emit = |name: &str, data: Value| Message::Text(format!("42{}", json!([name, data])).into());
    for (name, data) in
        [("subscribe_all_bots", json!({})), ("request_state", json!({ "type": "bot", "id": "b1" })), ("request_stats", json!({}))]
    {
        socket.send(emit(name, data)).await?;
        let error = told(&mut socket, "error").await?.context("cut off")?;
        ensure!(error["message"] == "authenticate first", "{name}: {error}");
    }
    for wrong in [json!({}), json!({ "token": "" }), json!({ "token": "hlt_000000000000_nothing" })] {
        socket.send(emit("authenticate", wrong.clone())).await?;
        let answer = told(&mut socket, "auth_response").await?.context("cut off")?;
        ensure!(answer["success"] == false, "{wrong}: {answer}");
    }
    socket.send(emit("authenticate", json!({ "token": token }))).await?;
    ensure!(told(&mut socket, "auth_response").await?.is_some_and(|a| a["success"] == true), "a good token is refused");
    socket.send(emit("subscribe_all_bots", json!({}))).await?;
    told(&mut socket, "subscribed").await?.context("cut off")?;
    publish(&site, 1).await?; // of no bot
    let (names, link) = (&site.link().names, site.link());
    let event = json!({ "type": "node_started", "id": "theirs", "execution_id": "exec_b_0", "workflow_id": "b", "bot_id": "b1", "strategy_id": "" });
    link.js.publish(names.note("exec_b_0"), event.to_string().into()).await?.await?;
    let first = told(&mut socket, "workflow_event").await?.context("cut off")?;
    ensure!(first["id"] == "theirs", "not theirs to know: {first}");

    // A wrong token in the handshake lets nobody in either.
    let mut wrong = joined(&site, r#"{"token":"hlt_000000000000_nothing"}"#).await?;
    let error = told(&mut wrong, "error").await?.context("cut off")?;
    ensure!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{error}");
    let http = http::client()?;
    let audit = format!("{}/v1/audit?limit=100", site.gateway_url());
    until("both are on record", WITHIN, async || {
        let page: Value = http.get(&audit).bearer_auth(&admin).send().await?.json().await?;
        let entries = page["entries"].as_array().cloned().unwrap_or_default();
        let refused = |action: &str| {
            entries
                .iter()
                .any(|e| e["action"] == action && e["status"] == 401 && e["address"] == "127.0.0.1" && e["target"] == "/socket.io/")
        };
        Ok((refused("connect") && refused("authenticate")).then_some(()))
    })
    .await?;

    // Who goes on guessing is told so, at whatever entrance.
    for _ in 0..40 {
        wrong.send(emit("authenticate", json!({ "token": "hlt_000000000000_nothing" }))).await?;
        told(&mut wrong, "auth_response").await?.context("cut off")?;
    }
    let status = http.get(format!("{}/v1/me", site.gateway_url())).bearer_auth("hlt_000000000000_nothing").send().await?.status();
    ensure!(status == 429, "after 40 guesses by Socket.IO: {status}");
    ensure!(http.get(format!("{}/v1/me", site.gateway_url())).bearer_auth(&token).send().await?.status() == 200, "a good token is held up");
    site.done();
    Ok(())
}

#[tokio::test]
async fn who_does_not_say_who_it_is_is_sent_away() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn_gateway_with(&["--socketio", "--auth", "required"]).await?;
    // The gateway counts from when it let the client in, which is before the client knows.
    let since = Instant::now();
    let mut silent = joined(&site, "").await?;
    told(&mut silent, "connected").await?.context("not connected")?;
    let error = told_within(&mut silent, "error", 2 * WITHIN).await?.context("cut off without a word")?;
    ensure!(error["message"] == "nobody has authenticated within 30 s", "{error}");
    ensure!(since.elapsed() >= Duration::from_secs(30), "sent away after {:?}", since.elapsed());
    ensure!(told(&mut silent, "anything").await?.is_none(), "not sent away");
    site.done();
    Ok(())
}
