//! The router: one file a resource, and the layers that all requests pass.

mod control;
mod executions;
pub(crate) mod health;
mod page;
mod workers;
mod workflows;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use haltline_client::{ApiError, Code};
use haltline_common::{metrics, types::limits::MESSAGE_BYTES_MAX};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    app::App,
    origin::Origins,
    problem::{self, Problem},
    ws,
};

/// A request takes at most this long: the longest wait for an execution and the time to submit it.
const REQUEST_MAX: Duration = Duration::from_secs(75);
/// Scripts and styles from here only, no inline ones, no framing.
const CSP: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Everything that is served.
pub(crate) fn router(app: App, origins: Arc<Origins>) -> Router {
    let allowed = origins.clone();
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, parts| {
            let host = parts.headers.get(header::HOST).and_then(|h| h.to_str().ok());
            origin.to_str().is_ok_and(|o| allowed.allows(o, host))
        }))
        .allow_methods([Method::GET, Method::POST, Method::PUT])
        .allow_headers([header::CONTENT_TYPE, HeaderName::from_static("idempotency-key")])
        .expose_headers([header::LOCATION, header::RETRY_AFTER]);
    Router::new()
        .route("/", get(page::index))
        .route("/app.js", get(page::script))
        .route("/app.css", get(page::style))
        .route("/v1/workflows", get(workflows::list))
        .route("/v1/workflows/{id}", get(workflows::read).put(workflows::put))
        .route("/v1/workflows/{id}/executions/latest", get(workflows::latest))
        .route("/v1/executions", get(executions::list).post(executions::submit))
        .route("/v1/executions/{id}", get(executions::read))
        .route("/v1/executions/{id}/events", get(executions::events))
        .route("/v1/executions/{id}/cancel", post(executions::cancel))
        .route("/v1/executions/{id}/nodes/{node}/resolve", post(executions::resolve))
        .route("/v1/control/global", get(control::read).put(control::set))
        .route("/v1/workers", get(workers::workers))
        .route("/v1/node-types", get(workers::types))
        .route("/v1/ws", get(ws::upgrade))
        .route("/health", get(health::health))
        .route("/status", get(health::status))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .with_state(app)
        .layer(DefaultBodyLimit::max(MESSAGE_BYTES_MAX))
        .layer(middleware::from_fn_with_state(origins, guard))
        .layer(cors)
        .layer(middleware::from_fn(finish))
}

/// Refuses what no page but ours may do, and ends what takes too long.
async fn guard(State(origins): State<Arc<Origins>>, request: Request, next: Next) -> Response {
    if let Some(problem) = refusal(&origins, &request) {
        return problem.into_response();
    }
    match tokio::time::timeout(REQUEST_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::from(ApiError::new(Code::Unavailable, format!("not done within {REQUEST_MAX:?}"))).into_response(),
    }
}

fn refusal(origins: &Origins, request: &Request) -> Option<Problem> {
    // What is no text is no name either.
    let text = |name| request.headers().get(name).map(|v: &HeaderValue| v.to_str().unwrap_or("?"));
    let (host, origin, path) = (text(header::HOST), text(header::ORIGIN), request.uri().path());
    // Probes and scrapers come by whatever name they know.
    let probe = matches!(path, "/livez" | "/readyz" | "/health" | "/metrics");
    if !probe && !origins.serves(host) {
        let detail = "this gateway listens on loopback and is not known by that host name; list its origin in gateway.origins";
        return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, "UnknownHost", detail));
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) && path != "/v1/ws";
    let foreign = origin.filter(|o| !reads && !origins.allows(o, host))?;
    let detail = format!("pages of {foreign} may not use this gateway; list the origin in gateway.origins");
    Some(Problem::new(StatusCode::FORBIDDEN, "ForbiddenOrigin", detail))
}

/// Counts, turns plain errors into problems and adds the headers that every answer has.
async fn finish(request: Request, next: Next) -> Response {
    metrics::HTTP_REQUESTS.inc();
    let mut response = problem::wrap(next.run(request).await).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
