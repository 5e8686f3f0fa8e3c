//! A backup taken under load, put onto an empty server: everything holds until someone resumes, and
//! then what was acknowledged before the backup ends, once.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, ensure};
use haltline_client::{Client, Code, Status, Submit};
use haltline_common::{
    js,
    types::{
        Names,
        access::{Role, Scopes},
    },
};
use haltline_tests::{Site, checks, http, ledger, shapes, soon, until};
use serde_json::Value;

use crate::COMMAND;

/// Executions in flight at once while the backup is taken.
const AT_ONCE: usize = 8;
/// Acknowledged executions before the backup begins.
const BEFORE: usize = 60;

/// Submissions of one lane: all of them fit into one listing.
const EACH: usize = 100;
/// Between two of them, so that they last longer than a backup.
const PACE: Duration = Duration::from_millis(50);

/// Keys in the order in which they were acknowledged.
type Acknowledged = Arc<Mutex<Vec<String>>>;

/// Submits short and longer executions.
async fn load(client: Client, input: Value, lane: usize, done: Acknowledged) -> anyhow::Result<()> {
    for n in 0..EACH {
        let key = format!("load-{lane}-{n}");
        // Some run when the backup is taken and when the server is lost.
        let workflow_id = if n % 4 == 3 { "waits" } else { "chain" }.to_owned();
        let submit = Submit {
            workflow_id: workflow_id.into(),
            version: None,
            input: input.clone(),
            bot_id: None,
            strategy_id: None,
            key: key.clone().into(),
            notify: None,
        };
        client.submit(submit).await?;
        done.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.push(key);
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

fn count(done: &Acknowledged) -> usize {
    done.lock().map_or(0, |d| d.len())
}

async fn streams(site: &Site) -> anyhow::Result<BTreeSet<String>> {
    let told: Value = js::api(site.link(), "STREAM.NAMES", &Value::Null).await?;
    Ok(told["streams"].as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect())
}

#[tokio::test]
async fn a_backup_under_load_holds_and_then_completes() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    site.client.put_workflow(&shapes::chain("chain")?).await?;
    site.client.put_workflow(&shapes::waiting("waits", "2500ms", "300ms")?).await?;
    let done = Acknowledged::default();
    let lanes: Vec<_> = (0..AT_ONCE).map(|lane| tokio::spawn(load(site.client.clone(), site.trading(), lane, done.clone()))).collect();
    soon("there is load", async || Ok(count(&done) >= BEFORE)).await?;

    let caller = site.caller();
    let dir = site.folder().join("backup").to_string_lossy().into_owned();
    let before = count(&done);
    let told = caller.call(&["backup", "--to", &dir, "--json"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    ensure!(count(&done) > before, "no load while the backup was taken");
    let manifest = told.json()?;
    let sequences = |stream: &str| {
        manifest["streams"].as_array().into_iter().flatten().find(|s| s["name"] == stream).and_then(|s| s["last_seq"].as_u64())
    };
    let log = site.link().names.events_stream();
    let log_end = sequences(&log).context("the log is not in the manifest")?;
    soon("the load goes on after the backup", async || Ok(js::stream_info(site.link(), &log).await?.state.last_seq > log_end)).await?;
    lanes.iter().for_each(tokio::task::JoinHandle::abort);
    for lane in lanes {
        // Ended by the abort, or by a failure that would make the rest of the test worthless.
        if let Ok(ended) = lane.await {
            ended?;
        }
    }

    // Nothing is overwritten: neither under running services, nor beside what is there.
    let again = caller.call(&["backup", "--to", &dir]).await?;
    ensure!(again.code == Some(2) && again.err.contains("not empty"), "{again:?}");
    let running = caller.call(&["restore", "--from", &dir]).await?;
    ensure!(running.code == Some(5) && running.err.contains("coordinator"), "{running:?}");
    for name in ["coordinator", "worker-1"] {
        site.process(name)?.kill();
    }
    let there = until("the coordinator is gone", Duration::from_secs(20), async || {
        let told = caller.call(&["restore", "--from", &dir]).await?;
        ensure!(told.code == Some(5), "{told:?}");
        Ok(told.err.contains("nats stream rm").then_some(told))
    })
    .await?;
    ensure!(there.err.contains(&log), "{there:?}");

    site.nats.lose_everything().await?;
    // Neither a damaged, nor a cut, nor a foreign backup changes anything.
    let archive = site.folder().join("backup").join(&log).join("stream.arc.s2");
    let whole = std::fs::read(&archive)?;
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for wrong in [&damaged[..], &whole[..middle]] {
        std::fs::write(&archive, wrong)?;
        let told = caller.call(&["restore", "--from", &dir]).await?;
        ensure!(told.code == Some(2) && told.err.contains("damaged") && told.err.contains(&log), "{told:?}");
    }
    std::fs::write(&archive, &whole)?;
    let file = site.folder().join("backup").join("haltline-backup.json");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("\"namespace\": \"test\"", "\"namespace\": \"other\""))?;
    let foreign = caller.call(&["restore", "--from", &dir]).await?;
    ensure!(foreign.code == Some(5) && foreign.err.contains("--namespace other"), "{foreign:?}");
    std::fs::remove_file(&file)?;
    let cut = caller.call(&["restore", "--from", &dir]).await?;
    ensure!(cut.code == Some(2) && cut.err.contains("no complete backup"), "{cut:?}");
    std::fs::write(&file, text)?;
    ensure!(streams(&site).await?.is_empty(), "a refused restore left something: {:?}", streams(&site).await?);

    let told = caller.call(&["restore", "--from", &dir, "--by", "test", "--json"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    ensure!(told.json()?["flag"]["state"] == "hold", "{told:?}");
    for stream in manifest["streams"].as_array().into_iter().flatten() {
        let name = stream["name"].as_str().unwrap_or_default();
        let state = js::stream_info(site.link(), name).await?.state;
        let control = Names::bucket_stream(&site.link().names.control_bucket());
        // The hold, and the marker of the bucket that was made.
        let held = 2 * u64::from(name == control);
        ensure!(Some(state.last_seq) == stream["last_seq"].as_u64().map(|s| s + held), "{name}: {state:?}, {stream}");
    }

    hold(&site, &done, before).await?;
    resume(&mut site, &done, before).await?;
    site.done();
    Ok(())
}

/// What is there, before any service runs.
async fn hold(site: &Site, done: &Acknowledged, before: usize) -> anyhow::Result<()> {
    let records = site.client.executions(1000).await?;
    let keys: BTreeSet<&str> = records.iter().map(|r| r.key.as_str()).collect();
    ensure!(keys.len() == records.len(), "a key has two executions");
    let acknowledged = done.lock().map_err(|_| anyhow::anyhow!("poisoned"))?[..before].to_vec();
    let lost: Vec<&String> = acknowledged.iter().filter(|k| !keys.contains(k.as_str())).collect();
    ensure!(lost.is_empty(), "acknowledged before the backup and not in it: {lost:?}");
    let ends = records.iter().map(|r| format!("{} {} to {:?}", r.key, r.started_at, r.finished_at)).collect::<Vec<_>>();
    let runs = records.iter().any(|r| !r.status.is_terminal());
    ensure!(runs, "nothing ran when the backup was taken: the test shows too little\n{}", ends.join("\n"));
    Ok(())
}

/// Services start and hold; then everything is carried on.
async fn resume(site: &mut Site, done: &Acknowledged, before: usize) -> anyhow::Result<()> {
    let link = site.link().clone();
    let ran = site.client.executions(1000).await?;
    let running: Vec<&str> = ran.iter().filter(|r| !r.status.is_terminal()).map(|r| r.correlation.execution_id.as_str()).collect();
    let unfinished: Vec<String> = ran.iter().filter(|r| !r.status.is_terminal()).map(|r| r.key.to_string()).collect();
    let orders = std::fs::read_to_string(site.ledger())?.lines().count();
    site.spawn("coordinator-2", &["coordinator"], None)?;
    site.spawn("worker-2", &["worker", "--id", "worker-2"], None)?;
    site.ready(1).await?;
    let client = site.client.clone().with_timeout(Duration::from_secs(2));
    let chain = shapes::chain("chain")?;
    // `Unavailable` until the shard has been taken over.
    soon("a submission is refused by the hold", async || {
        match client.submit(shapes::submission(&chain, "during the hold", site.trading())).await {
            Err(e) if e.code == Code::Unavailable => Ok(false),
            Err(e) if e.code == Code::ControlUnsure && e.message.contains("restored from a backup") => Ok(true),
            other => anyhow::bail!("during the hold: {other:?}"),
        }
    })
    .await?;
    soon("the worker waits", async || {
        let workers = site.client.workers().await?;
        Ok(workers.iter().any(|w| w.gate == "unsure" && w.in_flight > 0))
    })
    .await?;
    let told = site.caller().call(&["status", "--json"]).await?;
    ensure!(told.code == Some(3) && told.json()?["flag"]["state"] == "hold", "{told:?}");
    for id in &running {
        let record = haltline_common::kv::record(&link, id).await?.context("a record is gone")?.0;
        ensure!(matches!(record.status, Status::Running | Status::Completed), "{id} ended during the hold: {record:?}");
    }
    ensure!(std::fs::read_to_string(site.ledger())?.lines().count() == orders, "an order was placed during the hold");

    let told = site.caller().call(&["resume", "--reason", "looked at", "--by", "test"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    let acknowledged = done.lock().map_err(|_| anyhow::anyhow!("poisoned"))?[..before].to_vec();
    let keys: BTreeSet<String> = acknowledged.into_iter().chain(unfinished).collect();
    for key in &keys {
        let (record, events) = checks::ended(&site.client, key).await.with_context(|| key.clone())?;
        let kinds = checks::kinds(&events);
        ensure!(record.status == Status::Completed, "{key}: {:?} {:?}\n{}", record.status, record.error, kinds.join("\n"));
        let arrived = ledger::arrivals(&site.ledger(), &record.correlation.execution_id, "buy")?;
        ensure!(arrived.filled == 1, "{key}: filled {} times", arrived.filled);
    }
    // The same key is still the same execution.
    let repeated = site.client.submit(shapes::submission(&shapes::chain("chain")?, "load-0-0", site.trading())).await?;
    ensure!(repeated.repeated && repeated.status == Status::Completed, "{repeated:?}");
    ensure!(
        site.run(&shapes::chain("chain")?, "after the restore", site.trading()).await?.status == Status::Completed,
        "after the restore"
    );
    soon("no task is left", async || Ok(js::stream_info(&link, &link.names.tasks_stream()).await?.state.messages == 0)).await?;
    Ok(())
}

#[tokio::test]
async fn a_hold_waits_and_loses_nothing() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let waits = shapes::waiting("waits", "2s", "300ms")?;
    let id = site.submit(&waits, "key", site.trading()).await?;
    soon("it runs", async || Ok(checks::seen(&site.client, &id, "node_started", "one").await?.is_some())).await?;
    let told = site.caller().call(&["halt", "--level", "hold", "--reason", "look", "--by", "test"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    // What had begun ends; what follows waits with the coordinator.
    soon("both nodes ended", async || Ok(checks::seen(&site.client, &id, "node_completed", "one").await?.is_some())).await?;
    let record = site.client.record(&id).await?;
    ensure!(record.status == Status::Running, "{record:?}");
    let alert = site.client.set_flag(haltline_common::types::control::Level::Alert, "lower", "test").await;
    ensure!(alert.as_ref().is_err_and(|e| e.code == Code::Conflict), "alert lowered a hold: {alert:?}");
    site.caller().call(&["resume", "--reason", "seen", "--by", "test"]).await?;
    let (record, _) = checks::ended(&site.client, "key").await?;
    ensure!(record.status == Status::Completed, "{record:?}");
    // A halt is graver than a hold.
    site.caller().call(&["halt", "--level", "hold", "--reason", "look", "--by", "test"]).await?;
    let flag = site.client.set_flag(haltline_common::types::control::Level::Halt, "stop", "test").await?;
    ensure!(flag.state.as_str() == "halt", "{flag:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn tokens_and_the_record_of_access_are_in_a_backup() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    let (good, _) = site.client.create_token("desk", Role::Admin, Scopes::default(), None, "test").await?;
    let (gone, summary) = site.client.create_token("former", Role::Admin, Scopes::default(), None, "test").await?;
    site.client.revoke_token(&summary.id).await?;
    site.spawn_gateway_with(&["--auth", "required"]).await?;
    let http = http::client()?;
    let (me, audit) = (format!("{}/v1/me", site.gateway_url()), format!("{}/v1/audit", site.gateway_url()));
    let asks = async |token: &str| anyhow::Ok(http.get(&me).bearer_auth(token).send().await?.status().as_u16());
    let on_record = async || -> anyhow::Result<bool> {
        let page: Value = http.get(&audit).bearer_auth(&good).send().await?.json().await?;
        Ok(page["entries"].as_array().is_some_and(|all| all.iter().any(|e| e["action"] == "whoAmI" && e["status"] == 401)))
    };
    ensure!((asks(&good).await?, asks(&gone).await?) == (200, 401), "before the backup");
    soon("the refusal is on record", on_record).await?;

    let dir = site.folder().join("backup").to_string_lossy().into_owned();
    let told = site.caller().call(&["backup", "--to", &dir, "--json"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    site.process("gateway")?.kill();
    site.nats.lose_everything().await?;
    let told = site.caller().call(&["restore", "--from", &dir, "--by", "test"]).await?;
    ensure!(told.code == Some(0) && told.out.contains("tokens"), "{told:?}");
    site.restart_gateway(&["--auth", "required"]).await?;
    ensure!((asks(&good).await?, asks(&gone).await?) == (200, 401), "after the restore");
    ensure!(on_record().await?, "the refusal from before is not on record");
    site.done();
    Ok(())
}
