//! What operators rely on: metrics that are there, alerts and a board that name only those, and a page
//! for each alert.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, ensure};
use haltline_common::metrics::{self, Role};
use haltline_tests::{Site, http, port, shapes, soon};
use serde_json::{Value, json};

use crate::COMMAND;

/// Series with their values.
pub type Scrape = BTreeMap<String, f64>;

pub async fn scrape(url: &str) -> anyhow::Result<Scrape> {
    let response = http::client()?.get(format!("{url}/metrics")).send().await?;
    ensure!(response.status().is_success(), "{}", response.status());
    let text = response.text().await?;
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            Ok((series.to_owned(), value.parse().with_context(|| line.to_owned())?))
        })
        .collect()
}

fn name(series: &str) -> &str {
    series.split('{').next().unwrap_or(series)
}

/// Names of metrics of these roles that somebody else has to find out first, or that not every system has.
const LATER: &[&str] = &[
    "haltline_sync_mode",
    // Until a first one is written.
    "haltline_shard_checkpoint_age_seconds",
    "process_resident_memory_bytes",
];

fn complete(scrape: &Scrape, roles: &[Role]) -> anyhow::Result<()> {
    let shown: BTreeSet<&str> = scrape.keys().map(|s| name(s)).collect();
    let mine = metrics::catalogue().filter(|m| roles.contains(&m.role));
    let missing: Vec<&str> = mine.map(|m| m.name).filter(|n| !shown.contains(n) && !LATER.contains(n)).collect();
    ensure!(missing.is_empty(), "not exported: {missing:?}");
    let foreign: Vec<&str> = metrics::catalogue().filter(|m| !roles.contains(&m.role) && shown.contains(m.name)).map(|m| m.name).collect();
    ensure!(foreign.is_empty(), "exported by a process of another kind: {foreign:?}");
    Ok(())
}

#[tokio::test]
async fn an_installation_is_seen_from_outside() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    let (c, w) = (format!("127.0.0.1:{}", port::free()), format!("127.0.0.1:{}", port::free()));
    site.spawn("coordinator", &["coordinator", "--metrics", &c], None)?;
    site.spawn("worker-1", &["worker", "--id", "worker-1", "--types", "static,log", "--metrics", &w], None)?;
    site.ready(1).await?;
    site.spawn_gateway(None).await?;
    let (c, w, g) = (format!("http://{c}"), format!("http://{w}"), site.gateway_url());

    complete(&scrape(&c).await?, &[Role::Process, Role::Coordinator])?;
    complete(&scrape(&w).await?, &[Role::Process, Role::Worker])?;
    complete(&scrape(&g).await?, &[Role::Process, Role::Gateway])?;
    for url in [&c, &w] {
        let (status, live) = http::answer(http::client()?.get(format!("{url}/livez"))).await?;
        ensure!(status == 200 && live["live"] == true, "{live}");
    }
    let seen_as = async |want: &[(&str, f64)]| {
        let seen = scrape(&g).await?;
        Ok(want.iter().all(|(series, value)| seen.get(*series) == Some(value)))
    };
    soon("a sound installation is seen", async || {
        seen_as(&[
            ("haltline_fleet_up", 1.0),
            ("haltline_coordinators", 1.0),
            ("haltline_shard_owned{shard=\"7\"}", 1.0),
            ("haltline_workers{gate=\"open\"}", 1.0),
            ("haltline_workers_slots{type=\"log\"}", 64.0),
            ("haltline_control_level", 0.0),
            ("haltline_stream_limit_messages{stream=\"tasks\"}", 5e6),
        ])
        .await
    })
    .await?;

    // A type that nobody runs: its task waits, and its age grows.
    let lonely = shapes::workflow("lonely", json!([{ "id": "n", "type": "sleep", "params": { "duration": "1ms" } }]))?;
    site.submit(&lonely, "lonely", json!({})).await?;
    soon("the task is seen waiting", async || {
        let seen = scrape(&g).await?;
        let aged = |series: &str| seen.get(series).is_some_and(|age| *age > 0.5);
        Ok(seen.get("haltline_tasks_pending{type=\"sleep\"}") == Some(&1.0)
            && !seen.contains_key("haltline_workers_slots{type=\"sleep\"}")
            && aged("haltline_tasks_oldest_undelivered_age_seconds{type=\"sleep\"}")
            && aged("haltline_tasks_oldest_unacked_age_seconds{type=\"sleep\"}"))
    })
    .await?;
    site.run(&shapes::workflow("done", json!([{ "id": "n", "type": "static" }]))?, "done", json!({})).await?;
    soon("the coordinator counts", async || {
        let seen = scrape(&c).await?;
        Ok(seen["haltline_executions_accepted_total"] == 2.0 && seen["haltline_executions_ended_total"] == 1.0)
    })
    .await?;

    site.client.set_flag(haltline_common::types::control::Level::Halt, "test", "test").await?;
    site.process("coordinator")?.kill();
    site.process("worker-1")?.terminate();
    soon("what is gone is seen to be", async || {
        seen_as(&[
            ("haltline_fleet_up", 1.0),
            ("haltline_coordinators", 0.0),
            ("haltline_shard_owned{shard=\"0\"}", 0.0),
            ("haltline_workers{gate=\"open\"}", 0.0),
            ("haltline_workers{gate=\"halted\"}", 0.0),
            ("haltline_control_level", 2.0),
        ])
        .await
    })
    .await?;

    site.nats.kill();
    soon("the server's silence is seen, and no old number shown", async || {
        let seen = scrape(&g).await?;
        let stale =
            seen.keys().any(|s| s.starts_with("haltline_workers") || s.starts_with("haltline_tasks") || s.starts_with("haltline_shard"));
        Ok(seen.get("haltline_fleet_up") == Some(&0.0) && !stale && seen["haltline_control_watch_age_seconds"] > 2.0)
    })
    .await?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_taken_address_for_metrics_is_told() -> anyhow::Result<()> {
    let site = Site::bare(COMMAND).await?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let refused = site.caller().call(&["coordinator", "--metrics", &address]).await?;
    ensure!(refused.code != Some(0) && refused.err.contains("--metrics") && refused.err.contains(&address), "{refused:?}");
    let wrong = site.caller().call(&["worker", "--metrics", "9464"]).await?;
    ensure!(wrong.code == Some(2) && wrong.err.contains("metrics.listen"), "{wrong:?}");
    site.done();
    Ok(())
}

fn deployed(file: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Words of a text that are names of our metrics.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|w| w.starts_with("haltline_") || w.starts_with("process_")).collect()
}

fn exported() -> BTreeSet<&'static str> {
    metrics::catalogue().map(|m| m.name).collect()
}

/// Every expression of the board.
fn expressions(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(map) => {
            let own = map.get("expr").and_then(Value::as_str);
            own.into_iter().chain(map.values().flat_map(expressions)).collect()
        }
        Value::Array(list) => list.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn rules_and_board_name_what_is_exported_and_all_of_it() -> anyhow::Result<()> {
    let (rules, cases, board) =
        (deployed("prometheus/rules.yml")?, deployed("prometheus/rules_test.yml")?, deployed("grafana/haltline.json")?);
    let board: Value = serde_json::from_str(&board)?;
    let board = expressions(&board).join("\n");
    for (file, text) in [("rules", &rules), ("rules' tests", &cases), ("board", &board)] {
        let unknown: Vec<&str> = metric_names(text).difference(&exported()).copied().collect();
        ensure!(unknown.is_empty(), "the {file} name what is not exported: {unknown:?}");
    }
    let used: BTreeSet<&str> = metric_names(&rules).union(&metric_names(&board)).copied().collect();
    let idle: Vec<&str> = exported().difference(&used).copied().collect();
    ensure!(idle.is_empty(), "exported, and neither a rule nor the board needs it: {idle:?}");
    Ok(())
}

#[test]
fn every_alert_has_a_page_and_two_tests() -> anyhow::Result<()> {
    let (rules, cases, page) = (deployed("prometheus/rules.yml")?, deployed("prometheus/rules_test.yml")?, deployed("ALARMS.md")?);
    let after = |text: &str, mark: &str| -> BTreeSet<String> {
        text.lines().filter_map(|l| l.trim_start().trim_start_matches("- ").strip_prefix(mark)).map(|a| a.trim().to_owned()).collect()
    };
    let alerts = after(&rules, "alert: ");
    ensure!(alerts.len() > 10, "alerts are not found: {alerts:?}");
    ensure!(alerts == after(&page, "## "), "headings of the page: {:?}", after(&page, "## "));
    let anchors: BTreeSet<String> = alerts.iter().map(|a| format!("deploy/ALARMS.md#{}", a.to_lowercase())).collect();
    ensure!(anchors == after(&rules, "runbook: "), "anchors: {:?}", after(&rules, "runbook: "));
    let names = after(&cases, "name: ");
    for alert in &alerts {
        for case in ["bad", "good"] {
            ensure!(names.contains(&format!("\"{alert}: {case}\"")), "{alert}: {case} is not tested");
        }
    }
    Ok(())
}

#[test]
fn the_page_names_what_there_is() -> anyhow::Result<()> {
    let page = deployed("ALARMS.md")?;
    // Streams and buckets look like metrics.
    let stored = ["haltline_control", "haltline_checkpoints", "haltline_workers", "haltline_tasks", "haltline_events"];
    let unknown: Vec<&str> = metric_names(&page).into_iter().filter(|n| !exported().contains(n) && !stored.contains(n)).collect();
    ensure!(unknown.is_empty(), "the page names what is not exported: {unknown:?}");
    Ok(())
}
