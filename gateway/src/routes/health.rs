//! Health, status and metrics. None of them turns red because there is a halt.

use std::time::Duration;

use async_nats::connection::State as Connection;
use axum::{extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::control::gate;
use crate::{
    api::{Api, Op, Reply, Text},
    app::App,
    auth::{Need, Who},
    halt::Halt,
    problem::Problem,
};

/// A coordinator that does not answer within this time does not answer.
const PROBE: Duration = Duration::from_secs(1);
/// Parts are asked for this long.
const ASK: Duration = Duration::from_secs(3);
/// What Prometheus calls its text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Adds them.
pub(super) fn add(api: &mut Api) {
    api.get("/livez", live, Op::new("live", Need::Nothing, "Whether the process runs."))
        .get(
            "/readyz",
            ready,
            Op::new("ready", Need::Nothing, "Whether requests can be answered. 503 if not; not because of a halt.").gives(&[200, 503]),
        )
        .get(
            "/health",
            health,
            Op::new("health", Need::VIEWER, "The state of every part. 200 if the gateway can do its work, also during a halt, else 503.")
                .gives(&[200, 503]),
        )
        .get("/status", status, Op::new("status", Need::VIEWER, "What this gateway is and holds."))
        .get("/metrics", metrics, Op::new("metrics", Need::VIEWER, "Prometheus text, of this process and of the whole installation."));
}

/// That the process runs.
#[derive(Serialize, JsonSchema)]
struct Live {
    /// True.
    live: bool,
}

async fn live() -> Reply<Live> {
    Reply::ok(Live { live: true })
}

/// Whether requests can be answered, and what is missing.
#[derive(Serialize, JsonSchema)]
struct Ready {
    /// All of the following, and it is not stopping.
    ready: bool,
    /// There is a connection to nats-server.
    nats: bool,
    /// The log's tail has caught up.
    log: bool,
    /// The list of executions has caught up.
    executions: bool,
    /// It was told to end.
    stopping: bool,
}

async fn ready(State(app): State<App>) -> Reply<Ready> {
    let (nats, log, executions, stopping) = (connected(&app), app.hub.ready(), app.index.ready(), app.stop.is_cancelled());
    let ready = nats && log && executions && !stopping;
    Reply::with(told(ready), Ready { ready, nats, log, executions, stopping })
}

const fn told(fine: bool) -> StatusCode {
    if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn metrics(State(app): State<App>, who: Who) -> Result<Text, Problem> {
    who.everything()?;
    crate::fleet::refresh(&app).await;
    Ok(Text(TEXT, haltline_common::metrics::render()))
}

/// What this gateway is and holds.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "GatewayStatus")]
struct Status {
    /// Its build.
    version: &'static str,
    /// The installation.
    namespace: String,
    /// Seconds since it started.
    uptime_s: u64,
    /// Sockets being served.
    clients: usize,
    /// How many it serves at most.
    clients_max: usize,
    /// The last sequence of the log that it has seen.
    head: String,
    /// The first sequence that it has in memory.
    in_memory_from: String,
    /// Executions that can be listed.
    executions_listed: u64,
    /// How often it connected to nats-server.
    nats_connections_made: u64,
    /// The control flag.
    control: Halt,
}

async fn status(State(app): State<App>, who: Who) -> Result<Reply<Status>, Problem> {
    who.everything()?;
    let head = *app.hub.head().borrow();
    Ok(Reply::ok(Status {
        version: env!("CARGO_PKG_VERSION"),
        namespace: app.link.names.namespace().to_owned(),
        uptime_s: app.started.elapsed().as_secs(),
        clients: app.sessions.len(),
        clients_max: app.settings.clients_max,
        head: head.seq.to_string(),
        in_memory_from: app.hub.ring_from().to_string(),
        executions_listed: app.index.len(),
        nats_connections_made: app.link.reconnects(),
        control: app.halt.borrow().shown(),
    }))
}

/// The connection to nats-server.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "NatsHealth")]
struct Nats {
    /// Whether there is one.
    connected: bool,
}

/// JetStream.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JetStreamHealth")]
struct JetStream {
    /// Whether it answers about the log.
    ok: bool,
}

/// Coordinators.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CoordinatorHealth")]
struct Coordinator {
    /// Whether one answers; that takes an owner for every shard.
    answering: bool,
    /// What it says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<Value>,
}

/// Workers.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WorkersHealth")]
struct Workers {
    /// How many there are; null if it is not known.
    count: Option<usize>,
}

/// The gateway's tail of the log.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TailHealth")]
struct Tail {
    /// Whether it is connected.
    live: bool,
    /// Milliseconds since the server was last heard.
    heard_ms_ago: Option<u64>,
    /// The last sequence seen.
    head: u64,
    /// Messages of the log that it has not seen yet; null if it is not known.
    lag_messages: Option<u64>,
}

/// The list of executions.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "IndexHealth")]
struct Index {
    /// How many it has.
    listed: u64,
    /// Whether it has caught up.
    ready: bool,
}

/// The state of every part.
#[derive(Serialize, JsonSchema)]
struct Health {
    /// `ok`; `degraded` if a part is missing; `unavailable` if the gateway cannot do its work.
    status: &'static str,
    nats: Nats,
    jetstream: JetStream,
    control: Halt,
    /// What the flag is to this gateway: `open`, `halted`, `unsure`.
    gate: &'static str,
    coordinator: Coordinator,
    workers: Workers,
    tail: Tail,
    executions: Index,
}

async fn health(State(app): State<App>, _: Who) -> Reply<Health> {
    let (log, probe, workers) = tokio::join!(
        tokio::time::timeout(ASK, app.log()),
        tokio::time::timeout(ASK, app.probe.get(|| async { Ok::<_, ()>(probe(&app).await) })),
        tokio::time::timeout(ASK, app.workers()),
    );
    let nats = connected(&app);
    let log = log.ok().and_then(Result::ok);
    let head = app.hub.head().borrow().seq;
    let jetstream = log.is_some();
    let active = probe.ok().and_then(Result::ok).flatten();
    let fine = nats && jetstream && app.hub.ready();
    let whole = fine && app.index.ready() && app.hub.age_ms().is_some() && active.is_some();
    let body = Health {
        status: if whole {
            "ok"
        } else if fine {
            "degraded"
        } else {
            "unavailable"
        },
        nats: Nats { connected: nats },
        jetstream: JetStream { ok: jetstream },
        control: app.halt.borrow().shown(),
        gate: gate(&app),
        coordinator: Coordinator { answering: active.is_some(), active },
        workers: Workers { count: workers.ok().and_then(Result::ok).map(|w| w.len()) },
        tail: Tail {
            live: app.hub.age_ms().is_some(),
            heard_ms_ago: app.hub.age_ms(),
            head,
            lag_messages: log.map(|l| l.last_seq.saturating_sub(head)),
        },
        executions: Index { listed: app.index.len(), ready: app.index.ready() },
    };
    Reply::with(told(fine), body)
}

fn connected(app: &App) -> bool {
    app.link.client.connection_state() == Connection::Connected
}

/// Asks the active coordinator who it is; what it answers is shown as it is.
async fn probe(app: &App) -> Option<Value> {
    let ask = app.link.client.request(app.link.names.coordinator(), "".into());
    let answer = tokio::time::timeout(PROBE, ask).await.ok()?.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}
