//! Installations: made, repaired, refused, checked, side by side; coordinators that stand by.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use haltline_client::{Client, Code, Status};
use haltline_common::{
    Link,
    config::StorageSettings,
    js,
    topology::{self, Change, EnsureError},
    types::{
        Millis, Names,
        control::{Level, Scope},
    },
};
use haltline_server::{Launch, spawn_bound};
use haltline_tests::{Caller, Site, checks, folder::Folder, nats, port, shapes, soon, until};
use serde_json::{Value, json};

use crate::COMMAND;

#[tokio::test]
async fn ensure_is_idempotent_and_repairs() -> anyhow::Result<()> {
    let site = Site::bare(COMMAND).await?;
    let (link, storage) = (site.link(), StorageSettings::default());
    let again = topology::ensure(link, &storage).await?;
    ensure!(again.is_empty(), "the second time changed {again:?}");

    // Someone changed a description and a limit by hand.
    let stream = link.names.events_stream();
    let mut config = js::stream_info(link, &stream).await?.config;
    config["description"] = "mine".into();
    config["max_bytes"] = (1 << 20).into();
    let _: Value = js::api(link, &format!("STREAM.UPDATE.{stream}"), &config).await?;
    let repaired = topology::ensure(link, &storage).await?;
    let [Change::Updated(name, fields)] = &repaired[..] else { anyhow::bail!("{repaired:?}") };
    ensure!(*name == stream && fields.iter().any(|f| f == "description") && fields.iter().any(|f| f == "max_bytes"), "{repaired:?}");
    ensure!(topology::ensure(link, &storage).await?.is_empty(), "not repaired");

    // Settings change limits; a missing consumer and stream come back.
    let shorter = StorageSettings { keep: Millis::secs(7200), ..storage.clone() };
    let changed = topology::ensure(link, &shorter).await?;
    let fields: Vec<&[String]> = changed.iter().map(|c| if let Change::Updated(_, f) = c { &f[..] } else { &[] }).collect();
    ensure!(fields == [["max_age"], ["metadata"], ["max_age"]], "{changed:?}");
    topology::ensure(link, &storage).await?;
    let consumer = Names::task_consumer("http");
    let _: Value = js::api(link, &format!("CONSUMER.DELETE.{}.{consumer}", link.names.tasks_stream()), &Value::Null).await?;
    ensure!(topology::ensure(link, &storage).await? == [Change::Created(consumer)], "the consumer did not come back");

    // The flag is not touched by it.
    site.client.set_flag(Level::Halt, "stay", "test").await?;
    topology::ensure(link, &storage).await?;
    ensure!(site.client.flag().await?.state == Level::Halt, "ensure resumed");
    // Two at once, from nothing.
    let names = Names::new("twice").map_err(anyhow::Error::msg)?;
    let (a, b) = (Link::connect(&site.nats.url(), names.clone(), "a").await?, Link::connect(&site.nats.url(), names, "b").await?);
    tokio::try_join!(topology::ensure(&a, &storage), topology::ensure(&b, &storage))?;
    ensure!(topology::ensure(&a, &storage).await?.is_empty(), "two at once left something to do");
    ensure!(haltline_common::control::read(&a, &Scope::Global).await?.state == Level::Normal, "the first flag is not normal");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_server_without_jetstream_is_refused() -> anyhow::Result<()> {
    let port = port::free();
    let mut server = spawn_bound(Launch::new(nats::binary().await?).args(["-a", "127.0.0.1", "-p", &port.to_string()]))?;
    let url = format!("nats://127.0.0.1:{port}");
    let names = Names::new("test").map_err(anyhow::Error::msg)?;
    let link = until("it answers", Duration::from_secs(10), async || Ok(Link::connect(&url, names.clone(), "test").await.ok())).await?;
    let refused = topology::ensure(&link, &StorageSettings::default()).await;
    ensure!(matches!(refused, Err(EnsureError::NoJetStream(_))), "{refused:?}");
    let folder = Folder::new()?;
    let caller = Caller::new(COMMAND.as_ref(), vec!["--nats".into(), url], folder.path());
    for (args, code) in [(&["ensure"][..], 6), (&["coordinator"], 6), (&["doctor"], 1), (&["status"], 6)] {
        let told = caller.call(args).await?;
        ensure!(told.code == Some(code), "{args:?}: {told:?}");
        if code == 6 && args != ["status"] {
            ensure!(told.err.contains("JetStream"), "{args:?} does not say why: {told:?}");
        }
    }
    server.kill();
    Ok(())
}

#[tokio::test]
async fn the_doctor_tells_what_is_wrong() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    let caller = site.caller();
    let levels = |told: &Value, about: &str| -> Vec<String> {
        let all = told["findings"].as_array().cloned().unwrap_or_default();
        all.iter().filter(|f| f["about"] == about).filter_map(|f| f["level"].as_str().map(str::to_owned)).collect()
    };
    let told = caller.call(&["doctor", "--json"]).await?;
    ensure!(told.code == Some(0) && told.json()?["ok"] == true, "{told:?}");
    ensure!(levels(&told.json()?, "coordinator") == ["ok"] && levels(&told.json()?, "workers") == ["ok"], "{told:?}");
    let dir = site.folder().join("nats").to_string_lossy().into_owned();
    let told = caller.call(&["doctor", "--json", "--data-dir", &dir]).await?;
    ensure!(told.out.contains("2 minutes"), "the sync interval is not told: {told:?}");

    // A halt is a warning: the doctor finds the installation sound.
    site.client.set_flag(Level::Halt, "drill", "test").await?;
    let told = caller.call(&["doctor", "--json"]).await?;
    ensure!(told.code == Some(0) && levels(&told.json()?, "control flag") == ["warn"], "{told:?}");
    site.process("coordinator")?.kill();
    let told = caller.call(&["doctor", "--json"]).await?;
    ensure!(told.code == Some(0) && levels(&told.json()?, "coordinator") == ["warn"], "{told:?}");

    let stream = Names::bucket_stream(&site.link().names.control_bucket());
    let _: Value = js::api(site.link(), &format!("STREAM.DELETE.{stream}"), &Value::Null).await?;
    let told = caller.call(&["doctor", "--json"]).await?;
    ensure!(told.code == Some(1) && told.out.contains(&stream), "{told:?}");
    site.nats.kill();
    let told = caller.call(&["doctor", "--json"]).await?;
    ensure!(told.code == Some(6) && told.json()?["error"]["code"] == "Unavailable", "{told:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn installations_on_one_server_do_not_meet() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    let names = Names::new("other").map_err(anyhow::Error::msg)?;
    let link = Link::connect(&site.nats.url(), names, "test").await?;
    topology::ensure(&link, &StorageSettings::default()).await?;
    let other = Client::from_link(link).await?.with_timeout(Duration::from_secs(2));
    let one = shapes::workflow("one", json!([{ "id": "a", "type": "static" }]))?;
    // The other has no coordinator: nobody of the first answers for it.
    other.put_workflow(&one).await?;
    let refused = other.submit(shapes::submission(&one, "k", json!({}))).await;
    ensure!(refused.as_ref().is_err_and(|e| e.code == Code::Unavailable), "{refused:?}");
    other.set_flag(Level::Halt, "only here", "test").await?;
    ensure!(site.run(&one, "k", json!({})).await?.status == Status::Completed, "the other's halt reached the first");
    ensure!(other.executions(10).await?.is_empty() && other.workers().await?.is_empty(), "the other sees the first's");
    // And with one of its own, the same key is another execution.
    other.set_flag(Level::Normal, "go", "test").await?;
    for service in ["coordinator", "worker"] {
        site.spawn_in("other", &format!("other-{service}"), &[service], None)?;
    }
    let there = other.with_timeout(Duration::from_secs(20)).run(shapes::submission(&one, "k", json!({})), Duration::from_secs(20)).await?;
    ensure!(there.status == Status::Completed, "{there:?}");
    let here = checks::ended(&site.client, "k").await?.0;
    let found = Client::connect(&site.nats.url(), "other").await?.executions(10).await?;
    ensure!(found.len() == 1 && found[0].started_at > here.started_at, "{found:?}");
    ensure!(site.client.executions(10).await?.len() == 1 && site.client.workers().await?.len() == 1, "the first sees the other's");
    site.done();
    Ok(())
}

/// How long shards may be without an owner after a coordinator was killed.
const MOVED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn shards_are_shared_and_move_when_a_coordinator_dies_or_leaves() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    site.spawn("second", &["coordinator"], None)?;
    soon("both have four shards", async || Ok(shares(&site).await == [4, 4])).await?;
    let sleeps = shapes::waiting("sleeps", "4s", "100ms")?;
    let (mut ids, one) = (Vec::new(), shapes::workflow("one", json!([{ "id": "a", "type": "static" }]))?);
    for i in 0..8 {
        ids.push(site.submit(&sleeps, &format!("k{i}"), site.trading()).await?);
    }
    for id in &ids {
        soon("it runs", async || Ok(checks::seen(&site.client, id, "node_started", "one").await?.is_some())).await?;
    }
    site.process("coordinator")?.kill();
    let killed = Instant::now();
    until("the other one has all shards", MOVED_WITHIN, async || Ok((shares(&site).await == [8]).then_some(()))).await?;
    // One of each shard, most likely: whatever waited, waited no longer than that.
    for i in 0..32 {
        ensure!(site.run(&one, &format!("next{i}"), json!({})).await?.status == Status::Completed, "the next one");
    }
    ensure!(killed.elapsed() < MOVED_WITHIN * 2, "{:?}", killed.elapsed());
    for i in 0..8 {
        let (record, _) = checks::ended(&site.client, &format!("k{i}")).await?;
        ensure!(record.status == Status::Completed, "{record:?}");
    }

    // A third one gets its share, and all when the second is asked to end.
    site.spawn("third", &["coordinator"], None)?;
    soon("both have four shards", async || Ok(shares(&site).await == [4, 4])).await?;
    site.process("second")?.terminate();
    until("the third has all shards", Duration::from_secs(3), async || Ok((shares(&site).await == [8]).then_some(()))).await?;
    site.done();
    Ok(())
}

/// How many shards each coordinator says to have, as they answer within a tenth of a second.
async fn shares(site: &Site) -> Vec<usize> {
    let client = &site.link().client;
    let inbox = client.new_inbox();
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return Vec::new() };
    if client.publish_with_reply(site.link().names.coordinator(), inbox, "".into()).await.is_err() {
        return Vec::new();
    }
    let mut shares = Vec::new();
    while let Ok(Some(answer)) = tokio::time::timeout(Duration::from_millis(100), answers.next()).await {
        let told: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        shares.extend(told["shards"].as_array().map(Vec::len));
    }
    shares.sort_unstable();
    shares
}

#[tokio::test]
async fn dev_tells_when_it_is_ready_and_leaves_nothing() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let (out, data) = (folder.path().join("out"), folder.path().join("data"));
    let launch = Launch::new(COMMAND)
        .args(["dev", "--json", "--port", &port::free().to_string(), "--nats-port", &port::free().to_string(), "--data-dir"])
        .arg(&data)
        .stdout(std::fs::File::create(&out)?)
        .stderr(Stdio::null());
    let mut dev = spawn_bound(launch)?;
    let ready: Value = until("dev is ready", Duration::from_secs(60), async || {
        let text = std::fs::read_to_string(&out)?;
        Ok(text.ends_with('\n').then(|| serde_json::from_str(text.trim())).transpose()?)
    })
    .await?;
    ensure!(ready["ready"] == true && ready["ws"].as_str().is_some_and(|w| w.starts_with("ws://")), "{ready}");
    let text = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
    let client = Client::connect(&text("nats"), "haltline").await?;
    let one = shapes::workflow("one", json!([{ "id": "a", "type": "static" }]))?;
    ensure!(client.execute(&one, json!({}), None).await?.status == Status::Completed, "a run");
    let (status, _) = haltline_tests::http::answer(haltline_tests::http::client()?.get(format!("{}/health", text("gateway")))).await?;
    ensure!(status == 200, "the gateway's health is {status}");

    let children = children(dev.pid())?;
    ensure!(!children.is_empty(), "dev has no child");
    dev.kill();
    soon("nats-server ends with dev", async || Ok(children.iter().all(|pid| !alive(*pid)))).await
}

/// Processes whose parent is `pid`.
fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let told = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().context("ps")?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let pairs = text.lines().filter_map(|l| {
        let mut words = l.split_whitespace().map(str::parse::<u32>);
        Some((words.next()?.ok()?, words.next()?.ok()?))
    });
    Ok(pairs.filter(|(_, parent)| *parent == pid).map(|(child, _)| child).collect())
}

fn alive(pid: u32) -> bool {
    let told = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output();
    told.is_ok_and(|t| t.status.success() && !t.stdout.starts_with(b"Z"))
}

#[tokio::test]
async fn a_demo_without_nats_server_says_why() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let caller = Caller::new(COMMAND.as_ref(), Vec::new(), folder.path());
    let env = [("HALTLINE_NATS_SERVER", "/nonexistent")];
    for (args, code) in [(&["demo"][..], 1), (&["dev", "--port", "0", "--nats-port", "0"], 6)] {
        let told = caller.call_with(args, &env).await?;
        ensure!(told.code == Some(code), "{args:?}: {told:?}");
        ensure!(told.err.contains("/nonexistent") && told.err.contains("HALTLINE_NATS_SERVER"), "{args:?} does not say why: {told:?}");
    }
    Ok(())
}
