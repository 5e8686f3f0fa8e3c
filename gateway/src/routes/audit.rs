//! `/v1/audit`: what is on record about access, and about the control flags.

use axum::extract::State;
use bytes::Bytes;
use haltline_client::{ApiError, Code};
use haltline_common::{
    js,
    types::{
        access::AccessEntry,
        control::{AuditEntry, digest},
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    api::{Api, Asked, Op, Reply},
    app::App,
    auth::{Need, Who},
    problem::Problem,
    stored,
};

/// Entries of one page.
const PAGE_MAX: usize = 500;

/// Adds them.
pub(super) fn add(api: &mut Api) {
    api.get(
        "/v1/audit",
        access,
        Op::new("readAudit", Need::ADMIN, "What is on record about access, the newest first: refusals, and changes that were asked for."),
    )
    .get(
        "/v1/audit/control",
        control,
        Op::new(
            "readControlAudit",
            Need::ADMIN,
            "What is on record about the control flags, the newest first: every change that was stored, through whatever door, and every confirmed halt. Each entry names the digest of the one before it; `haltline audit verify` checks all of them.",
        ),
    );
}

/// Which entries.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AuditQuery")]
struct Query {
    /// Only entries before this `seq`.
    before: Option<u64>,
    /// 1 to 500; 100 if absent.
    limit: Option<usize>,
}

/// An entry about access.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AccessRecord")]
struct Access {
    /// Its sequence in the stream.
    seq: u64,
    /// What it says.
    #[serde(flatten)]
    entry: AccessEntry,
}

/// An entry about a control flag.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ControlRecord")]
struct Control {
    /// Its sequence in the stream.
    seq: u64,
    /// SHA-256 of its stored bytes, in hex: what the next entry names as `prev`. Keep the newest one elsewhere.
    digest: String,
    /// What it says.
    #[serde(flatten)]
    entry: AuditEntry,
}

/// Entries about access.
#[derive(Serialize, JsonSchema)]
struct AuditPage {
    /// The newest first.
    entries: Vec<Access>,
    /// The `before` to ask with for what is older; null at the end.
    next: Option<u64>,
}

/// Entries about control flags.
#[derive(Serialize, JsonSchema)]
struct ControlAuditPage {
    /// The newest first.
    entries: Vec<Control>,
    /// The `before` to ask with for what is older; null at the end.
    next: Option<u64>,
}

async fn access(State(app): State<App>, who: Who, Asked(query): Asked<Query>) -> Result<Reply<AuditPage>, Problem> {
    who.everything()?;
    let (newest, next) = newest(&app, &app.link.names.access_stream(), &app.link.names.access_all(), &query).await?;
    let entries = newest.into_iter().filter_map(|(seq, body)| Some(Access { seq, entry: entry(seq, &body)? })).collect();
    Ok(Reply::ok(AuditPage { entries, next }))
}

async fn control(State(app): State<App>, who: Who, Asked(query): Asked<Query>) -> Result<Reply<ControlAuditPage>, Problem> {
    who.everything()?;
    let (newest, next) = newest(&app, &app.link.names.audit_stream(), &app.link.names.audit(), &query).await?;
    let entries = newest.into_iter().filter_map(|(seq, body)| Some(Control { seq, digest: digest(&body), entry: entry(seq, &body)? }));
    Ok(Reply::ok(ControlAuditPage { entries: entries.collect(), next }))
}

fn entry<T: DeserializeOwned>(seq: u64, body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).inspect_err(|error| tracing::warn!(seq, %error, "an entry of a record is malformed; left out")).ok()
}

/// The newest messages of a stream before what is asked, each with its sequence, and where older ones begin.
async fn newest(app: &App, stream: &str, subject: &str, query: &Query) -> Result<(Vec<(u64, Bytes)>, Option<u64>), Problem> {
    let limit = query.limit.unwrap_or(100);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("must be 1 to {PAGE_MAX}")).into());
    }
    let unavailable = |e: String| ApiError::new(Code::Unavailable, e);
    let state = js::stream_info(&app.link, stream).await.map_err(|e| unavailable(e.to_string()))?.state;
    let end = query.before.unwrap_or(u64::MAX).min(state.last_seq.saturating_add(1));
    // Nothing is ever removed from the middle.
    let from = end.saturating_sub(limit as u64).max(state.first_seq).max(1);
    let mut found = Vec::new();
    let mut pos = from;
    while pos < end {
        let left = usize::try_from(end - pos).unwrap_or(limit).min(limit);
        let page = stored::page(&app.link, stream, subject, pos, left).await.map_err(unavailable)?;
        let Some((last, _)) = page.last() else { break };
        pos = last + 1;
        found.extend(page.into_iter().filter(|(seq, _)| *seq < end));
    }
    found.reverse();
    Ok((found, (from > state.first_seq.max(1) && end > from).then_some(from)))
}
