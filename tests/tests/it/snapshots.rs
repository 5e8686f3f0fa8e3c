//! Snapshots taken while executions are accepted and end: the state and what follows it leave nothing out, on any
//! of many connections. Records and events are written one after the other; a snapshot must not fall in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_common::types::feed::{From, IfGap, Mode, ServerFrame};
use haltline_tests::{Site, shapes, until};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    COMMAND,
    fuzz::ws,
    oracle::client::{Client, Want},
};

/// Executions submitted at once, how many of each at most, so that one snapshot has them all, and the time between two.
const LANES: usize = 4;
const EACH: usize = 200;
const PACE: Duration = Duration::from_millis(10);
/// Connections made meanwhile, one after the other.
const CLIENTS: usize = 60;

/// What a client knows of each execution: its status as the snapshot and the events behind it tell.
fn folded(client: &Client) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    for frame in client.current().map(|c| c.frames()).unwrap_or_default() {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        match frame {
            ServerFrame::Snap(s) => known.extend(s.items.iter().map(|i| (text(&i["execution_id"]), text(&i["status"])))),
            ServerFrame::Ev(e) => {
                let (id, kind) = (text(&e.d["execution_id"]), text(&e.d["type"]));
                match kind.as_str() {
                    "execution_started" => _ = known.entry(id).or_insert_with(|| "running".into()),
                    "execution_completed" => _ = known.insert(id, "completed".into()),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    known
}

#[tokio::test]
async fn a_snapshot_and_what_follows_it_leave_nothing_out() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_gateway(None).await?;
    let quick = shapes::workflow("quick", json!([{ "id": "n", "type": "static", "params": { "outputs": { "x": "1" } } }]))?;
    site.client.put_workflow(&quick).await?;
    let over = CancellationToken::new();
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let (client, quick, over) = (site.client.clone(), quick.clone(), over.clone());
            tokio::spawn(async move {
                let mut ids = Vec::new();
                while !over.is_cancelled() && ids.len() < EACH {
                    let key = format!("{lane}-{}", ids.len());
                    ids.push(client.submit(shapes::submission(&quick, &key, json!({}))).await?.execution_id);
                    tokio::time::sleep(PACE).await;
                }
                anyhow::Ok(ids)
            })
        })
        .collect();
    let mut clients = Vec::new();
    while clients.len() < CLIENTS && lanes.iter().any(|l| !l.is_finished()) {
        let want = Want {
            filter: serde_json::from_value(json!({ "workflow": ["quick"] }))?,
            from: From::Snapshot(true),
            if_gap: IfGap::Continue,
            mode: Mode::Lossless,
        };
        let mut client = Client::new(BTreeMap::from([("s".to_owned(), want)]));
        client.connect(&format!("{}/v1/ws", ws(&site))).await?;
        clients.push(client);
    }
    over.cancel();
    let mut ids = BTreeSet::new();
    for lane in lanes {
        ids.extend(lane.await??);
    }
    ensure!(clients.len() >= CLIENTS / 6, "{} clients, {} executions", clients.len(), ids.len());
    for (n, client) in clients.iter().enumerate() {
        let what = format!("client {n} knows the end of every execution");
        until(&what, Duration::from_secs(20), async || {
            let known = folded(client);
            Ok(ids.iter().all(|id| known.get(id.as_str()).is_some_and(|s| s == "completed")).then_some(()))
        })
        .await
        .with_context(|| {
            let known = folded(client);
            let wrong: Vec<_> =
                ids.iter().map(|id| (id, known.get(id.as_str()))).filter(|(_, s)| s.is_none_or(|s| s != "completed")).collect();
            format!("{wrong:?}")
        })?;
    }
    site.done();
    Ok(())
}
