//! Whether a request gets to its handler: who sends it, how often, and whether a page may have sent it.

use std::net::IpAddr;

use axum::{
    extract::{FromRequestParts, Request},
    http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use haltline_client::{ApiError, Code};

use crate::{
    app::{App, Inner},
    audit::{Asker, Noted},
    auth::{self, Denied, Need, Principal, Who},
    net::Peer,
    problem::Problem,
};

/// Lets a request through that may do what its route needs, and puts on record what it changed or why
/// it was refused.
pub(crate) async fn admit(app: &App, action: &'static str, need: Need, mut request: Request, next: Next) -> Response {
    let target = request.uri().path().to_owned();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut asker = asker(request.headers(), request.extensions());
    if let Need::Role(_) = need {
        match entitled(app, need, reads, &mut asker, request.headers()).await {
            Ok(who) => _ = request.extensions_mut().insert(who),
            Err(problem) => {
                app.audit.refusal(&asker, action, &target, problem.status(), problem.detail()).await;
                return problem.into_response();
            }
        }
    }
    let mut response = next.run(request).await;
    if need == Need::Nothing || need == Need::Itself {
        return response;
    }
    let status = response.status();
    let noted = response.extensions_mut().remove::<Noted>().unwrap_or_default();
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        app.audit.refusal(&asker, action, &target, status.as_u16(), &noted.reason).await;
    } else if !reads {
        app.audit.change(&asker, action, &target, status.as_u16(), noted).await;
    }
    response
}

/// What is known of who asks before anybody is recognised.
pub(crate) fn asker(headers: &HeaderMap, extensions: &Extensions) -> Asker {
    Asker {
        address: extensions.get::<Peer>().map(|p| p.0),
        origin: text(headers, header::ORIGIN).unwrap_or_default().to_owned(),
        ..Asker::default()
    }
}

/// Who sends this, if they may do what the route needs.
async fn entitled(app: &App, need: Need, reads: bool, asker: &mut Asker, headers: &HeaderMap) -> Result<Who, Problem> {
    let principal = known(app, headers, asker.address).await?;
    *asker = Asker::of(&principal, asker.address, &asker.origin);
    // A browser sends the cookie by itself, whoever made the page: that it was ours has to be certain.
    let by_cookie = headers.get(header::AUTHORIZATION).is_none() && auth::cookie(headers).is_some();
    if by_cookie && !reads {
        own_page(app, headers)?;
    }
    if let Some(credential) = &principal.credential
        && !app.limits.caller(&format!("{credential}/{}", principal.name))
    {
        return Err(ApiError::new(Code::Overloaded, "more requests than one caller may send (gateway.requests_per_s): wait").into());
    }
    if let Need::Role(role) = need
        && !principal.may(role)
    {
        let detail = format!("this needs the role {}; `{}` has the role {}", role.as_str(), principal.name, principal.role.as_str());
        return Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", detail));
    }
    Ok(Who(principal))
}

/// How a connection comes in that lasts: a socket, a stream of events. Its token may be in a header or a
/// cookie, or come later; what is refused goes on record.
pub(crate) struct Entrance {
    headers: HeaderMap,
    asker: Asker,
    target: String,
}

impl FromRequestParts<App> for Entrance {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        Ok(Self::of(parts))
    }
}

impl Entrance {
    /// Of the request that a connection began with.
    pub fn of(parts: &Parts) -> Self {
        Self { headers: parts.headers.clone(), asker: asker(&parts.headers, &parts.extensions), target: parts.uri.path().to_owned() }
    }

    /// Who comes in by a header or cookie; `None` if neither is there and one is needed.
    ///
    /// # Errors
    /// 401, 429, 503.
    pub async fn known(&mut self, app: &Inner, action: &str) -> Result<Option<Principal>, Problem> {
        // Not kept for as long as the connection lasts.
        let headers = std::mem::take(&mut self.headers);
        match app.auth.by_headers(&headers).await {
            Ok(principal) => Ok(Some(principal)),
            Err(Denied::Missing) => Ok(None),
            Err(denied) => {
                let problem = answer(app, self.asker.address, &denied);
                app.audit.refusal(&self.asker, action, &self.target, problem.status(), problem.detail()).await;
                Err(problem)
            }
        }
    }
}

impl Entrance {
    /// Whose token this is, of a connection that is there already.
    ///
    /// # Errors
    /// Why they are not let in.
    pub async fn token(&self, app: &Inner, action: &str, token: &str) -> Result<Principal, Denied> {
        let known = app.auth.by_token(token).await;
        if let Err(denied) = &known {
            let problem = answer(app, self.asker.address, denied);
            app.audit.refusal(&self.asker, action, &self.target, problem.status(), problem.detail()).await;
        }
        known
    }
}

/// Who sends this. An address whose tokens are refused again and again is told so.
///
/// # Errors
/// 401, 429, 503.
pub(crate) async fn known(app: &Inner, headers: &HeaderMap, address: Option<IpAddr>) -> Result<Principal, Problem> {
    limited(app, address, app.auth.by_headers(headers)).await
}

/// The same by a token that came another way.
///
/// # Errors
/// As [`known`].
pub(crate) async fn token(app: &Inner, token: &str, address: Option<IpAddr>) -> Result<Principal, Problem> {
    limited(app, address, app.auth.by_token(token)).await
}

/// Good tokens are never held up by bad ones of the same address: behind a proxy all have one.
async fn limited(
    app: &Inner,
    address: Option<IpAddr>,
    look: impl Future<Output = Result<Principal, Denied>>,
) -> Result<Principal, Problem> {
    look.await.map_err(|denied| answer(app, address, &denied))
}

/// Why somebody is not let in, as it is answered.
fn answer(app: &Inner, address: Option<IpAddr>, denied: &Denied) -> Problem {
    match denied {
        Denied::Invalid(_) if address.is_some_and(|a| !app.limits.refused(a)) => {
            ApiError::new(Code::Overloaded, "too many tokens of this address were refused: wait").into()
        }
        Denied::Missing | Denied::Invalid(_) => Problem::new(StatusCode::UNAUTHORIZED, "Unauthenticated", denied.to_string()),
        Denied::Unavailable(why) => ApiError::new(Code::Unavailable, why.clone()).into(),
    }
}

/// That a request with a cookie comes from a page of ours: browsers say so in one of two headers.
///
/// # Errors
/// 403.
pub(crate) fn own_page(app: &Inner, headers: &HeaderMap) -> Result<(), Problem> {
    let host = text(headers, header::HOST);
    let own = match (text(headers, header::ORIGIN), headers.get("sec-fetch-site").and_then(|v| v.to_str().ok())) {
        (Some(origin), _) => app.origins.allows(origin, host),
        (None, Some(site)) => site == "same-origin",
        (None, None) => false,
    };
    if own {
        return Ok(());
    }
    let detail =
        "a request with a cookie that changes something must come from a page of this gateway; programs send `Authorization: Bearer`";
    Err(Problem::new(StatusCode::FORBIDDEN, "CrossSite", detail))
}

/// A header's text; what is no text is no name either.
fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).map(|v: &HeaderValue| v.to_str().unwrap_or("?"))
}

/// What no page but ours may do, and what is not meant for us at all: one rule for REST, WebSocket, event
/// stream and Socket.IO.
///
/// # Errors
/// 421 for a host name that is not ours, 403 for a foreign page.
pub(crate) fn from_here(app: &Inner, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let (host, origin) = (text(headers, header::HOST), text(headers, header::ORIGIN));
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
