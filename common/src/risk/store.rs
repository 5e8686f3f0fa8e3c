//! Rules and what they count, read and written one at a time: for commands, gateways and starts.

use std::collections::BTreeMap;

use haltline_risk::{Book, RULES_MAX, Rule, Watched, rule_key};
use haltline_types::{
    Names,
    control::Scope,
    error::{ApiError, Code},
};

use super::{WATCHED_KEY, malformed, reserved_key, reserved_scope};
use crate::{
    Link, clock, js, kv,
    tail::{self, Item, Start, Tail},
};

/// How often a record is tried to be changed against others.
const TRIES_MAX: usize = 50;

/// All values of a bucket whose keys match, by key; deleted ones are left out.
pub(super) async fn all(link: &Link, bucket: &str, filter: &str) -> Result<BTreeMap<String, (Vec<u8>, u64)>, ApiError> {
    let options = tail::Options {
        stream: Names::bucket_stream(bucket),
        filter: Names::kv_subject(bucket, filter),
        start: Start::LastPerSubject,
        heartbeat: std::time::Duration::from_secs(2),
        buffer: 256,
        reader: "risk_read".into(),
        headers_only: false,
    };
    let mut tail = Tail::start(link, options);
    let mut found = BTreeMap::new();
    let read = async {
        while let Some(item) = tail.next().await {
            match item {
                Item::Message(m) => {
                    let Some(key) = Names::key_of(bucket, &m.subject) else { continue };
                    if m.headers.as_ref().is_some_and(kv::is_deletion) {
                        found.remove(key);
                    } else {
                        found.insert(key.to_owned(), (m.payload.to_vec(), m.seq));
                    }
                }
                Item::CaughtUp { .. } => return Ok(()),
                Item::Lost { reason, missing: true } => {
                    return Err(ApiError::new(Code::Unavailable, format!("{bucket} is missing: {reason}; run `haltline ensure`")));
                }
                Item::Lost { .. } | Item::Reset { .. } => found.clear(),
            }
        }
        Err(ApiError::new(Code::Unavailable, format!("{bucket} cannot be read")))
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), read)
        .await
        .map_err(|_| ApiError::new(Code::Unavailable, "nats-server does not answer in time"))??;
    Ok(found)
}

/// All rules by key; for one that cannot be read, why.
///
/// # Errors
/// `Unavailable`.
pub async fn rules(link: &Link) -> Result<BTreeMap<String, Result<Rule, String>>, ApiError> {
    let found = all(link, &link.names.control_bucket(), "risk.>").await?;
    Ok(found.into_iter().map(|(key, (value, _))| (key.clone(), read_rule(&key, &value))).collect())
}

/// A rule as it is stored, if it is one.
pub(super) fn read_rule(key: &str, value: &[u8]) -> Result<Rule, String> {
    let rule: Rule = serde_json::from_slice(value).map_err(|e| e.to_string())?;
    rule.check().map_err(|e| e.message)?;
    if rule.key() != key {
        return Err(format!("it is stored as {key} and says that it is {}", rule.key()));
    }
    Ok(rule)
}

/// Stores a rule in place of the one of its name, if there is one; its revision.
///
/// # Errors
/// `Invalid` with the field; `TooLarge` if there are too many; `Conflict`; `Unavailable`.
pub async fn set(link: &Link, rule: &Rule) -> Result<u64, ApiError> {
    rule.check()?;
    let (bucket, key) = (link.names.control_bucket(), rule.key());
    let known = rules(link).await?;
    if !known.contains_key(&key) && known.len() >= RULES_MAX {
        return Err(ApiError::new(Code::TooLarge, format!("there are {RULES_MAX} rules already, and no more are kept")));
    }
    let entry = kv::get(link, &bucket, &key).await?;
    let current = entry.as_ref().map_or(0, |e| e.revision);
    // A rule that is changed goes on counting.
    let before = entry.and_then(|e| e.value).and_then(|v| read_rule(&key, &v).ok()).filter(|b| b.kind == rule.kind);
    let since = match before {
        Some(before) => before.since,
        None => js::stream_info(link, &link.names.events_stream()).await.map_err(kv::unavailable)?.state.last_seq,
    };
    let rule = Rule { at: Some(clock::now()), since, ..rule.clone() };
    let json = serde_json::to_vec(&rule).map_err(|e| malformed("the rule", e))?;
    let revision = kv::swap_once(link, &bucket, &key, current, json).await?;
    // From now on nobody reserves by older rules. And what it counts is there, so that a record that is missing later is
    // known to be lost.
    if rule.kind.reserves() {
        change_book(link, &rule.scope, |book| book.rules = book.rules.max(revision)).await?;
    }
    Ok(revision)
}

/// Removes a rule; false if there was none. What its scope has reserved stays.
///
/// # Errors
/// `Unavailable`.
pub async fn delete(link: &Link, scope: &Scope, name: &str) -> Result<bool, ApiError> {
    let (bucket, key) = (link.names.control_bucket(), rule_key(scope, name));
    let Some(entry) = kv::get(link, &bucket, &key).await?.filter(|e| e.value.is_some()) else { return Ok(false) };
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    headers.insert("Nats-Expected-Last-Subject-Sequence", entry.revision.to_string());
    let ack = link.js.publish_with_headers(Names::kv_subject(&bucket, &key), headers, bytes::Bytes::new()).await;
    let ack = ack.map_err(kv::unavailable)?;
    ack.await.map(|_| true).map_err(kv::unavailable)
}

/// What a scope has reserved and spent; `None` if nothing was ever counted there.
///
/// # Errors
/// `Unavailable`; `Internal` if it cannot be read, or was deleted: it is not known then.
pub async fn book(link: &Link, scope: &Scope) -> Result<Option<(Book, u64)>, ApiError> {
    let key = reserved_key(scope);
    let Some(entry) = kv::get(link, &link.names.risk_bucket(), &key).await? else { return Ok(None) };
    let Some(value) = entry.value else {
        let why = format!("{key} was deleted, so nobody knows what {scope} has spent; `haltline risk reset --scope {scope}` begins anew");
        return Err(ApiError::new(Code::Internal, why));
    };
    let book = serde_json::from_slice(&value).map_err(|e| malformed(&key, e))?;
    Ok(Some((book, entry.revision)))
}

/// What all scopes have reserved and spent.
///
/// # Errors
/// `Unavailable`.
pub async fn books(link: &Link) -> Result<BTreeMap<Scope, Result<Book, String>>, ApiError> {
    let found = all(link, &link.names.risk_bucket(), "reserved.>").await?;
    let read = |(key, (value, _)): (String, (Vec<u8>, u64))| {
        Some((reserved_scope(&key)?, serde_json::from_slice(&value).map_err(|e| e.to_string())))
    };
    Ok(found.into_iter().filter_map(read).collect())
}

/// Changes what a scope has reserved, by compare-and-swap.
///
/// # Errors
/// `Unavailable`, `Conflict` if others are always faster, `Internal` if it cannot be read.
pub async fn change_book<T>(link: &Link, scope: &Scope, mut change: impl FnMut(&mut Book) -> T) -> Result<T, ApiError> {
    for _ in 0..TRIES_MAX {
        let (mut book, revision) = book(link, scope).await?.unwrap_or_default();
        let before = book.clone();
        let outcome = change(&mut book);
        if book == before {
            return Ok(outcome);
        }
        let json = serde_json::to_vec(&book).map_err(|e| malformed("the record", e))?;
        match kv::swap_once(link, &link.names.risk_bucket(), &reserved_key(scope), revision, json).await {
            Ok(_) => return Ok(outcome),
            Err(e) if e.code == Code::Conflict => {}
            Err(e) => return Err(e),
        }
    }
    Err(ApiError::new(Code::Conflict, "the record is being changed by others; nothing was written"))
}

/// Begins anew what a scope counts: nothing reserved, nothing spent, no positions.
///
/// # Errors
/// `Unavailable`, `Conflict`.
pub async fn reset(link: &Link, scope: &Scope) -> Result<u64, ApiError> {
    let (bucket, key) = (link.names.risk_bucket(), reserved_key(scope));
    let revision = kv::get(link, &bucket, &key).await?.map_or(0, |e| e.revision);
    let json = serde_json::to_vec(&Book::default()).map_err(|e| malformed("the record", e))?;
    kv::swap_once(link, &bucket, &key, revision, json).await
}

/// What outcomes show, as it was stored last; empty if nothing is watched yet.
///
/// # Errors
/// `Unavailable`; `Internal` if it cannot be read.
pub async fn watched(link: &Link) -> Result<Watched, ApiError> {
    match kv::get(link, &link.names.risk_bucket(), WATCHED_KEY).await?.and_then(|e| e.value) {
        None => Ok(Watched::default()),
        Some(value) => {
            #[derive(serde::Deserialize)]
            struct Stored {
                state: Watched,
            }
            serde_json::from_slice::<Stored>(&value).map(|s| s.state).map_err(|e| malformed(WATCHED_KEY, e))
        }
    }
}
