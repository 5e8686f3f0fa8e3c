//! Logging in, tokens, and what is on record about access.

use std::time::SystemTime;

use axum::{
    extract::{Path, State},
    http::{Method, StatusCode, header},
};
use haltline_client::{ApiError, Code};
use haltline_common::{
    js,
    types::{
        Millis, Timestamp,
        access::{AccessEntry, Role, Scopes, TokenSummary},
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    api::{Api, Asked, Given, Op, Page, Reply},
    app::App,
    audit::Noted,
    auth::{COOKIE, Need, Who, now},
    problem::Problem,
    stored,
};

/// How long a login lasts at most, in seconds: a working day.
const SESSION_S: u64 = 12 * 3600;
/// Entries of one page.
const PAGE_MAX: usize = 500;

/// Adds them.
pub(super) fn add(api: &mut Api) {
    api.get("/v1/me", me, Op::new("whoAmI", Need::VIEWER, "Who sends this request, and what they may do and know of."))
        .post("/v1/login", login, Op::new("login", Need::Nothing, "Puts a token into a cookie that only this gateway's pages are sent with. For the page: programs send `Authorization: Bearer`."))
        .post("/v1/logout", logout, Op::new("logout", Need::Nothing, "Removes the cookie."))
        .get("/v1/tokens", list, Op::new("listTokens", Need::ADMIN, "API tokens, without their secrets."))
        .post("/v1/tokens", create, Op::new("createToken", Need::ADMIN, "Makes an API token. It is told this once.").gives(&[201]))
        .on(Method::DELETE, "/v1/tokens/{id}", revoke, Op::new("revokeToken", Need::ADMIN, "Revokes an API token. Gateways refuse it and close its connections within a second."))
        .get("/v1/audit", audit, Op::new("readAudit", Need::ADMIN, "What is on record about access, the newest first: refusals, and changes that were asked for."));
}

/// Somebody who was let in.
#[derive(Serialize, JsonSchema)]
struct Me {
    /// Who.
    name: String,
    /// What they may do.
    role: Role,
    /// What they may know of; everything if empty.
    scopes: Scopes,
    /// Whether that is certain: false where no token is needed.
    verified: bool,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    /// Whether a token is needed here.
    auth_required: bool,
}

fn shown(app: &App, p: &crate::auth::Principal) -> Me {
    let until = p.until.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    Me {
        name: p.name.clone(),
        role: p.role,
        scopes: p.scopes.clone(),
        verified: p.credential.is_some(),
        until: until.and_then(|d| i64::try_from(d.as_millis()).ok()).map(Timestamp),
        auth_required: app.auth.required(),
    }
}

async fn me(State(app): State<App>, who: Who) -> Reply<Me> {
    Reply::ok(shown(&app, &who.0))
}

/// A token to log in with.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    /// An API token or a JWT.
    token: String,
}

/// Logged in or out.
#[derive(Serialize, JsonSchema)]
struct LoggedOut {
    /// False.
    logged_in: bool,
}

async fn login(State(app): State<App>, page: Page, Given(l): Given<Login>) -> Result<Reply<Me>, Problem> {
    page.own(&app)?;
    let principal = page.try_token(&app, "login", l.token.trim()).await?;
    let rest = principal.until.and_then(|at| at.duration_since(now()).ok()).map_or(SESSION_S, |d| d.as_secs());
    let cookie = cookie(&app, l.token.trim(), rest.min(SESSION_S));
    Ok(Reply::ok(shown(&app, &principal)).header(header::SET_COOKIE, &cookie))
}

async fn logout(State(app): State<App>, page: Page) -> Result<Reply<LoggedOut>, Problem> {
    page.own(&app)?;
    Ok(Reply::ok(LoggedOut { logged_in: false }).header(header::SET_COOKIE, &cookie(&app, "", 0)))
}

/// Not readable by scripts, not sent from other sites, and over TLS alone where there is TLS.
fn cookie(app: &App, value: &str, age_s: u64) -> String {
    let secure = !app.settings.tls.cert.is_empty() || app.settings.insecure_without_tls;
    format!("{COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={age_s}{}", if secure { "; Secure" } else { "" })
}

/// API tokens.
#[derive(Serialize, JsonSchema)]
struct Tokens {
    /// By name.
    tokens: Vec<TokenSummary>,
}

async fn list(State(app): State<App>, who: Who) -> Result<Reply<Tokens>, Problem> {
    who.everything()?;
    Ok(Reply::ok(Tokens { tokens: app.client.tokens().await? }))
}

/// A token to make.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewToken")]
struct New {
    /// Whose it will be, for people and for the record.
    name: String,
    /// What it allows.
    role: Role,
    /// What it covers; everything if absent.
    #[serde(default, deserialize_with = "haltline_common::types::json::object")]
    scopes: Scopes,
    /// How long it counts, as `12h` or `30d`; for ever if absent.
    expires_in: Option<Millis>,
}

/// A token that was made.
#[derive(Serialize, JsonSchema)]
struct Created {
    /// The token: it is nowhere else.
    token: String,
    /// What is kept of it.
    #[serde(flatten)]
    summary: TokenSummary,
}

async fn create(State(app): State<App>, who: Who, Given(n): Given<New>) -> Result<Reply<Created>, Problem> {
    who.everything()?;
    let expires_at = match n.expires_in {
        Some(d) => {
            let at = i64::try_from(d.0).ok().and_then(|d| haltline_common::clock::now().0.checked_add(d));
            // Ten thousand years is for ever.
            Some(Timestamp(
                at.filter(|at| *at < 253_402_300_799_000).ok_or_else(|| ApiError::invalid("expires_in", "is too long: leave it out"))?,
            ))
        }
        None => None,
    };
    let (token, summary) = app.client.create_token(&n.name, n.role, n.scopes, expires_at, &who.by(None)).await?;
    let noted = Noted { after: Some(json!(summary)), ..Noted::default() };
    Ok(Reply::with(StatusCode::CREATED, Created { token, summary }).noted(noted))
}

async fn revoke(State(app): State<App>, who: Who, Path(id): Path<String>) -> Result<Reply<TokenSummary>, Problem> {
    who.everything()?;
    let gone = app.client.revoke_token(&id).await.map_err(|e| {
        let missing = e.field.as_deref() == Some("id");
        let problem = Problem::from(e);
        if missing { problem.with_status(StatusCode::NOT_FOUND) } else { problem }
    })?;
    let noted = Noted { before: Some(json!(gone)), ..Noted::default() };
    Ok(Reply::ok(gone).noted(noted))
}

/// Which entries.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Entries {
    /// Only entries before this `seq`.
    before: Option<u64>,
    /// 1 to 500; 100 if absent.
    limit: Option<usize>,
}

/// An entry.
#[derive(Serialize, JsonSchema)]
struct Entry {
    /// Its sequence in the stream.
    seq: u64,
    /// What it says.
    #[serde(flatten)]
    entry: AccessEntry,
}

/// A page of entries.
#[derive(Serialize, JsonSchema)]
struct AuditPage {
    /// The newest first.
    entries: Vec<Entry>,
    /// The `before` to ask with for what is older; null at the end.
    next: Option<u64>,
}

async fn audit(State(app): State<App>, who: Who, Asked(e): Asked<Entries>) -> Result<Reply<AuditPage>, Problem> {
    who.everything()?;
    let limit = e.limit.unwrap_or(100);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("must be 1 to {PAGE_MAX}")).into());
    }
    let unavailable = |e: String| ApiError::new(Code::Unavailable, e);
    let stream = app.link.names.access_stream();
    let state = js::stream_info(&app.link, &stream).await.map_err(|e| unavailable(e.to_string()))?.state;
    let end = e.before.unwrap_or(u64::MAX).min(state.last_seq.saturating_add(1));
    // Nothing is ever removed from the middle.
    let from = end.saturating_sub(limit as u64).max(state.first_seq).max(1);
    let mut entries = Vec::new();
    let mut pos = from;
    while pos < end {
        let left = usize::try_from(end - pos).unwrap_or(limit).min(limit);
        let page = stored::page(&app.link, &stream, &app.link.names.access_all(), pos, left).await.map_err(unavailable)?;
        let last = page.last().map(|(seq, _)| *seq);
        for (seq, body) in page.into_iter().filter(|(seq, _)| *seq < end) {
            match serde_json::from_slice(&body) {
                Ok(entry) => entries.push(Entry { seq, entry }),
                Err(error) => tracing::warn!(seq, %error, "an entry about access is malformed; left out"),
            }
        }
        match last {
            Some(last) => pos = last + 1,
            None => break,
        }
    }
    entries.reverse();
    let next = (from > state.first_seq.max(1) && end > from).then_some(from);
    Ok(Reply::ok(AuditPage { entries, next }))
}
