//! How fast lists answer where there are many executions: records of made-up executions are stored, a
//! gateway reads them, and is asked for pages of all kinds over HTTP.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use haltline_client::Client;
use haltline_common::{
    clock, js,
    types::{
        Names, Timestamp,
        event::Correlation,
        ids,
        record::{Record, Status},
    },
};
use serde_json::{Value, json};

use super::report;
use crate::{
    commands::{Context, dev::folder::Folder},
    output,
    system::System,
};

/// Records sent before one is waited for: the server drops what it is given faster than it stores.
const WINDOW: usize = 4000;
/// How long the gateway may take to read all of them.
const READ_WITHIN: Duration = Duration::from_secs(900);
/// Pages asked for.
const PAGES: usize = 2000;
/// Requests at once.
const AT_ONCE: usize = 4;

/// Runs it; 1 if a page was wrong.
///
/// # Errors
/// When the system does not come up or stops answering.
pub async fn run(executions: usize, context: Context) -> anyhow::Result<u8> {
    let folder = Folder::open(None)?;
    let mut system = System::start(folder.path(), context.names.clone(), None).await?;
    let client = system.client().await?;
    let began = Instant::now();
    fill(&client, executions).await?;
    let filled = began.elapsed();
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let index = folder.path().join("index.redb").to_string_lossy().into_owned();
    let began = Instant::now();
    system.spawn("gateway", &["gateway", "--port", &port.to_string(), "--index", &index])?;
    let base = format!("http://127.0.0.1:{port}");
    ready(&base, executions).await?;
    let read = began.elapsed();
    let pages = ask(&base, executions).await?;
    // Again from the file: nothing has to be read but what is new.
    system.kill("gateway");
    let began = Instant::now();
    system.spawn("gateway", &["gateway", "--port", &port.to_string(), "--index", &index])?;
    ready(&base, executions).await?;
    let again = began.elapsed();
    let report = json!({
        "executions": executions,
        "store_s": report::round(filled.as_secs_f64()),
        "index_built_s": report::round(read.as_secs_f64()),
        "index_reopened_after_kill_s": report::round(again.as_secs_f64()),
        "index_mb": report::round(std::fs::metadata(&index).map_or(0.0, |m| m.len() as f64 / 1e6)),
        "pages": pages.len(),
        "at_once": AT_ONCE,
        "page_ms": report::quantiles(&pages),
    });
    system.stop().await?;
    if context.json {
        output::json(&report);
    } else {
        output::line(format_args!("{report:#}"));
    }
    Ok(0)
}

/// Always the same numbers: figures of two runs are of the same lists.
struct Rng(u64);

impl Rng {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }
}

/// The n-th execution: 200 workflows, 50 bots, 20 strategies; one in 50 failed, one in 1000 runs.
fn record(n: usize, rng: &mut Rng, now: Timestamp) -> Record {
    let workflow_id = format!("workflow-{}", rng.next(200));
    let status = match rng.next(1000) {
        0 => Status::Running,
        1..=20 => Status::Failed,
        21..=30 => Status::Cancelled,
        _ => Status::Completed,
    };
    // One a second, so that a million reaches back eleven days.
    let started_at = Timestamp(now.0 - (n as i64) * 1000 - rng.next(1000) as i64);
    let ended = status.is_terminal();
    Record {
        v: 1,
        correlation: Correlation {
            execution_id: format!("exec_{workflow_id}_{}", &ids::digest(n.to_string().as_bytes())[..8]).into(),
            workflow_id: workflow_id.into(),
            bot_id: format!("bot-{}", rng.next(50)).into(),
            strategy_id: format!("strategy-{}", rng.next(20)).into(),
        },
        status,
        workflow_version: "1".into(),
        shard: 0,
        node_count: 3,
        nodes_completed: if ended { 3 } else { 0 },
        nodes_failed: 0,
        nodes_skipped: 0,
        started_at,
        finished_at: ended.then_some(Timestamp(started_at.0 + 12)),
        duration_ms: ended.then_some(12.0),
        key: n.to_string().into(),
        body: "".into(),
        input: Value::Null,
        notify: None,
        results: std::sync::Arc::default(),
        results_omitted: false,
        error: (status == Status::Failed).then(|| "connection refused".to_owned()),
        error_type: (status == Status::Failed).then(|| "Connection".to_owned()),
        failed_node: (status == Status::Failed).then(|| "price".into()),
        errors: Vec::new(),
        reason: None,
        event_count: ended.then_some(8),
        unknown_nodes: Vec::new(),
    }
}

async fn fill(client: &Client, executions: usize) -> anyhow::Result<()> {
    let link = client.link();
    let bucket = link.names.executions_bucket();
    let (mut rng, now) = (Rng(0x9e37_79b9_7f4a_7c15), clock::now());
    // The oldest first, as they come in real life.
    for n in (0..executions).rev() {
        let record = record(n, &mut rng, now);
        let subject = Names::kv_subject(&bucket, &ids::token(&record.correlation.execution_id));
        let body = bytes::Bytes::from(serde_json::to_vec(&record)?);
        if n % WINDOW == 0 {
            link.js.publish(subject, body).await?.await.context("a record was not stored")?;
        } else {
            link.client.publish(subject, body).await?;
        }
    }
    let stored = js::stream_info(link, &Names::bucket_stream(&bucket)).await?.state.messages;
    // A few clash in 32 bits of their ids, as they may.
    ensure!(stored as usize + executions / 1000 + 2 >= executions, "only {stored} of {executions} records were stored");
    Ok(())
}

async fn ready(base: &str, executions: usize) -> anyhow::Result<()> {
    let until = Instant::now() + READ_WITHIN;
    let http = reqwest::Client::new();
    loop {
        let ready = http.get(format!("{base}/readyz")).send().await.is_ok_and(|r| r.status().is_success());
        if ready {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("the gateway has not read {executions} records within {READ_WITHIN:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The address of a page: each kind of filter alone and together, first pages and deep ones, both
/// orders, with what matches often, rarely and never.
fn address(rng: &mut Rng, executions: usize) -> String {
    let mut query: Vec<String> = Vec::new();
    let kinds = rng.next(64);
    if kinds & 1 != 0 {
        query.push(format!("workflow_id=workflow-{}", rng.next(202)));
    }
    if kinds & 2 != 0 {
        query.push(format!("bot_id=bot-{}", rng.next(51)));
    }
    if kinds & 4 != 0 {
        query.push(format!("strategy_id=strategy-{}", rng.next(21)));
    }
    if kinds & 8 != 0 {
        query.push(format!("status={}", ["completed", "failed", "running", "running,failed,cancelled", "halted"][rng.next(5) as usize]));
    }
    if kinds & 16 != 0 {
        let back = rng.next(executions as u64) as i64 * 1000;
        query.push(format!("until={}", Timestamp(clock::now().0 - back)));
    }
    if kinds & 32 != 0 {
        query.push("sort=started_at".into());
    }
    if rng.next(10) == 0 {
        query.push(format!("id=exec_workflow-{}_{:x}", rng.next(200), rng.next(16)));
    }
    query.push(format!("limit={}", [50, 100, 500][rng.next(3) as usize]));
    format!("/v1/executions?{}", query.join("&"))
}

/// Milliseconds of every page.
async fn ask(base: &str, executions: usize) -> anyhow::Result<Vec<f64>> {
    let askers = (0..AT_ONCE).map(|asker| async move {
        let (http, mut rng) = (reqwest::Client::new(), Rng(77 + asker as u64));
        let mut took = Vec::new();
        let mut next: Option<(String, String)> = None;
        while took.len() < PAGES / AT_ONCE {
            let (address, cursor) = match next.take() {
                Some((address, cursor)) => (address, Some(cursor)),
                None => (address(&mut rng, executions), None),
            };
            let url = match &cursor {
                Some(cursor) => format!("{base}{address}&cursor={cursor}"),
                None => format!("{base}{address}"),
            };
            let began = Instant::now();
            let response = http.get(&url).send().await?;
            let status = response.status();
            let body: Value = response.json().await?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
            ensure!(status.is_success() && body["executions"].is_array(), "{url}: {status} {body}");
            // Every third page leads on.
            if let (Some(cursor), 0) = (body["next"].as_str(), rng.next(3)) {
                next = Some((address, cursor.to_owned()));
            }
        }
        Ok::<_, anyhow::Error>(took)
    });
    let all = futures_util::future::try_join_all(askers).await?;
    Ok(all.into_iter().flatten().collect())
}
