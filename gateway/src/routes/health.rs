//! Health, status and metrics. None of them turns red because there is a halt.

use std::time::Duration;

use async_nats::connection::State as Connection;
use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::control::gate;
use crate::{app::App, problem::json_response};

/// A coordinator that does not answer within this time does not answer.
const PROBE: Duration = Duration::from_secs(1);
/// Parts are asked for this long.
const ASK: Duration = Duration::from_secs(3);

/// `GET /livez`: the process runs.
pub(super) async fn live() -> Response {
    json_response(StatusCode::OK, &json!({ "live": true }))
}

/// `GET /readyz`: requests can be answered.
pub(super) async fn ready(State(app): State<App>) -> Response {
    let (nats, log, list) = (connected(&app), app.hub.ready(), app.index.ready());
    let ready = nats && log && list && !app.stop.is_cancelled();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({ "ready": ready, "nats": nats, "log": log, "executions": list, "stopping": app.stop.is_cancelled() }))
}

/// `GET /metrics`: Prometheus text, of this process and of the whole installation.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    crate::fleet::refresh(&app).await;
    let mut response = haltline_common::metrics::render().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// `GET /status`: what this gateway is and holds.
pub(super) async fn status(State(app): State<App>) -> Response {
    let head = *app.hub.head().borrow();
    json_response(
        StatusCode::OK,
        &json!({
            "version": env!("CARGO_PKG_VERSION"),
            "namespace": app.link.names.namespace(),
            "uptime_s": app.started.elapsed().as_secs(),
            "clients": app.sessions.len(),
            "clients_max": app.settings.clients_max,
            "head": head.seq.to_string(),
            "in_memory_from": app.hub.ring_from().to_string(),
            "executions_listed": app.index.read().len(),
            "nats_connections_made": app.link.reconnects(),
            "control": app.halt.borrow().json(),
        }),
    )
}

/// `GET /health`: the state of every part; 200 if the gateway can do its work, also during a halt,
/// else 503.
pub(super) async fn health(State(app): State<App>) -> Response {
    let (log, probe, workers) = tokio::join!(
        tokio::time::timeout(ASK, app.log()),
        tokio::time::timeout(ASK, app.probe.get(|| async { Ok::<_, ()>(probe(&app).await) })),
        tokio::time::timeout(ASK, app.workers()),
    );
    let nats = connected(&app);
    let log = log.ok().and_then(Result::ok);
    let head = app.hub.head().borrow().seq;
    let jetstream = log.is_some();
    let control = app.halt.borrow().json();
    let probe = probe.ok().and_then(Result::ok).flatten();
    let coordinator = match probe {
        Some(active) => json!({ "answering": true, "active": active }),
        None => json!({ "answering": false }),
    };
    let fine = nats && jetstream && app.hub.ready();
    let whole = fine && app.index.ready() && app.hub.age_ms().is_some() && coordinator["answering"] == true;
    let body: Value = json!({
        "status": if whole { "ok" } else if fine { "degraded" } else { "unavailable" },
        "nats": { "connected": nats },
        "jetstream": { "ok": jetstream },
        "control": control,
        "gate": gate(&app),
        "coordinator": coordinator,
        "workers": { "count": workers.ok().and_then(Result::ok).map(|w| w.len()) },
        "tail": {
            "live": app.hub.age_ms().is_some(), "heard_ms_ago": app.hub.age_ms(), "head": head,
            "lag_messages": log.map(|l| l.last_seq.saturating_sub(head)),
        },
        "executions": { "listed": app.index.read().len(), "ready": app.index.ready() },
    });
    json_response(if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
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
