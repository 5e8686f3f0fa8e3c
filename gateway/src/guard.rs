//! Whether a request gets to its handler: who sends it, and whether a page may have sent it.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use haltline_client::{ApiError, Code};

use crate::{
    app::App,
    auth::{Denied, Need, Who},
    problem::Problem,
};

/// Lets a request through that may do what its route needs.
pub(crate) async fn admit(app: &App, need: Need, mut request: Request, next: Next) -> Response {
    if let Need::Role(role) = need {
        let principal = match app.auth.by_headers(request.headers()).await {
            Ok(principal) => principal,
            Err(denied) => return refused(&denied).into_response(),
        };
        if !principal.may(role) {
            let detail = format!("this needs the role {}; `{}` has the role {}", role.as_str(), principal.name, principal.role.as_str());
            return Problem::new(StatusCode::FORBIDDEN, "Forbidden", detail).into_response();
        }
        request.extensions_mut().insert(Who(principal));
    }
    next.run(request).await
}

/// Why somebody is not let in, as it is answered.
pub(crate) fn refused(denied: &Denied) -> Problem {
    match denied {
        Denied::Missing | Denied::Invalid(_) => Problem::new(StatusCode::UNAUTHORIZED, "Unauthenticated", denied.to_string()),
        Denied::Unavailable(why) => ApiError::new(Code::Unavailable, why.clone()).into(),
    }
}

/// What no page but ours may do, and what is not meant for us at all.
///
/// # Errors
/// 421 for a host name that is not ours, 403 for a foreign page.
pub(crate) fn from_here(app: &App, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
    // What is no text is no name either.
    let text = |name| headers.get(name).map(|v: &HeaderValue| v.to_str().unwrap_or("?"));
    let (host, origin) = (text(header::HOST), text(header::ORIGIN));
    // Probes and scrapers come by whatever name they know.
    let probe = matches!(path, "/livez" | "/readyz" | "/health" | "/metrics");
    if !probe && !app.origins.serves(host) {
        let detail = "this gateway listens on loopback and is not known by that host name; list its origin in gateway.origins";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "UnknownHost", detail));
    }
    // Streams are checked as well, although they only read: a page of elsewhere must not follow them.
    let live = matches!(path, "/v1/ws" | "/v1/events") || path.starts_with("/socket.io");
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) && !live;
    match origin.filter(|o| !reads && !app.origins.allows(o, host)) {
        None => Ok(()),
        Some(foreign) => {
            let detail = format!("pages of {foreign} may not use this gateway; list the origin in gateway.origins");
            Err(Problem::new(StatusCode::FORBIDDEN, "ForbiddenOrigin", detail))
        }
    }
}
