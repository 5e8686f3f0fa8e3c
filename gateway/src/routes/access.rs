//! Logging in and tokens.

use std::time::SystemTime;

use axum::{
    extract::{Path, State},
    http::{Method, StatusCode, header},
};
use haltline_client::ApiError;
use haltline_common::types::{
    Millis, Timestamp,
    access::{Role, Scopes, TokenSummary},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    api::{Api, Given, Op, Page, Reply},
    app::App,
    audit::Noted,
    auth::{COOKIE, Need, Who, now},
    problem::Problem,
};

/// How long a login lasts at most, in seconds: a working day.
const SESSION_S: u64 = 12 * 3600;

/// Adds them.
pub(super) fn add(api: &mut Api) {
    api.get("/v1/me", me, Op::new("whoAmI", Need::VIEWER, "Who sends this request, and what they may do and know of."))
        .post("/v1/login", login, Op::new("login", Need::Nothing, "Puts a token into a cookie that only this gateway's pages are sent with. For the page: programs send `Authorization: Bearer`."))
        .post("/v1/logout", logout, Op::new("logout", Need::Nothing, "Removes the cookie."))
        .get("/v1/tokens", list, Op::new("listTokens", Need::ADMIN, "API tokens, without their secrets."))
        .post("/v1/tokens", create, Op::new("createToken", Need::ADMIN, "Makes an API token. It is told this once.").gives(&[201]))
        .on(Method::DELETE, "/v1/tokens/{id}", revoke, Op::new("revokeToken", Need::ADMIN, "Revokes an API token. Gateways refuse it and close its connections within a second."));
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
