//! Dead-man switches as they are stored: sending a heartbeat arms its scope's switch.

use std::collections::BTreeMap;

use haltline_risk::Heartbeat;
use haltline_types::{control::Scope, error::ApiError};

use super::{heartbeat_key, malformed, store};
use crate::{Link, clock, kv};

/// Sends a heartbeat, and arms the switch with it: if none follows within `heartbeat.every`, a coordinator raises
/// `heartbeat.level` of the scope. Its time is set here. The revision.
///
/// # Errors
/// `Invalid` with the field; `Unavailable`: it is not known then whether it counts.
pub async fn heartbeat(link: &Link, heartbeat: &Heartbeat) -> Result<u64, ApiError> {
    heartbeat.check()?;
    let heartbeat = Heartbeat { at: clock::now(), ..heartbeat.clone() };
    let json = serde_json::to_vec(&heartbeat).map_err(|e| malformed("the heartbeat", e))?;
    let subject = haltline_types::Names::kv_subject(&link.names.risk_bucket(), &heartbeat_key(&heartbeat.scope));
    let ack = link.js.publish(subject, json.into()).await.map_err(kv::unavailable)?;
    ack.await.map(|ack| ack.sequence).map_err(kv::unavailable)
}

/// Takes the switch of a scope back; false if it was not armed. What it raised stays.
///
/// # Errors
/// `Unavailable`.
pub async fn disarm(link: &Link, scope: &Scope) -> Result<bool, ApiError> {
    let (bucket, key) = (link.names.risk_bucket(), heartbeat_key(scope));
    if kv::get(link, &bucket, &key).await?.is_none_or(|e| e.value.is_none()) {
        return Ok(false);
    }
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    let subject = haltline_types::Names::kv_subject(&bucket, &key);
    let ack = link.js.publish_with_headers(subject, headers, bytes::Bytes::new()).await.map_err(kv::unavailable)?;
    ack.await.map(|_| true).map_err(kv::unavailable)
}

/// All switches that are armed, by key.
///
/// # Errors
/// `Unavailable`.
pub async fn heartbeats(link: &Link) -> Result<BTreeMap<String, Result<Heartbeat, String>>, ApiError> {
    let found = store::all(link, &link.names.risk_bucket(), "heartbeat.>").await?;
    Ok(found.into_iter().map(|(key, (value, _))| (key, serde_json::from_slice(&value).map_err(|e| e.to_string()))).collect())
}
