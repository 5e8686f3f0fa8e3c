//! What is served: one file a resource, and the layers that all requests pass.

mod access;
mod audit;
mod client;
mod control;
mod executions;
pub(crate) mod health;
mod page;
mod risk;
mod workers;
mod workflows;

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use haltline_client::{ApiError, Code};
use haltline_common::{
    metrics,
    types::{feed::FRAME_MAX, limits::MESSAGE_BYTES_MAX},
};
use http_body_util::Limited;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    api::Api,
    app::App,
    auth::Need,
    guard,
    problem::{self, Problem},
    socketio, sse, ws,
};

/// A request takes at most this long: the longest wait for an execution and the time to submit it.
const REQUEST_MAX: Duration = Duration::from_secs(75);
/// Scripts and styles from here only, no inline ones, no framing.
const CSP: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Everything that is served.
pub(crate) fn router(app: &App) -> Router {
    let mut api = Api::new(app);
    executions::add(&mut api);
    access::add(&mut api);
    audit::add(&mut api);
    workflows::add(&mut api);
    control::add(&mut api);
    risk::add(&mut api);
    workers::add(&mut api);
    health::add(&mut api);
    page::add(&mut api);
    client::add(&mut api);
    api.page("/v1/ws", ws::upgrade, Need::Itself);
    api.page("/v1/events", sse::events, Need::VIEWER);
    let origins = app.origins.clone();
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, parts| {
            let host = parts.headers.get(header::HOST).and_then(|h| h.to_str().ok());
            origin.to_str().is_ok_and(|o| origins.allows(o, host))
        }))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([header::ETAG, header::LOCATION, header::RETRY_AFTER]);
    let mut router = api.finish();
    if app.settings.socketio {
        router = router.layer(socketio::layer(app));
    }
    router
        .layer(DefaultBodyLimit::max(MESSAGE_BYTES_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), bounds))
        .layer(cors)
        .layer(middleware::from_fn(finish))
}

/// Refuses what no page but ours may do, and ends what takes too long.
async fn bounds(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if let Err(problem) = guard::from_here(&app, request.method(), request.uri().path(), request.headers()) {
        let asker = guard::asker(request.headers(), request.extensions());
        app.audit.refusal(&asker, "request", request.uri().path(), problem.status(), problem.detail()).await;
        return problem.into_response();
    }
    // What the library behind it would read goes by its limit for answers, which is larger.
    if app.settings.socketio && request.uri().path().starts_with("/socket.io") {
        request = request.map(|body| Body::new(Limited::new(body, FRAME_MAX)));
    }
    match tokio::time::timeout(REQUEST_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::from(ApiError::new(Code::Unavailable, format!("not done within {REQUEST_MAX:?}"))).into_response(),
    }
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
