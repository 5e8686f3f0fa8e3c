//! Payloads in the object store: `nats object ls <ns>_payloads` shows them.

use std::time::Duration;

use async_nats::jetstream::{
    context::ObjectStoreErrorKind,
    object_store::{GetErrorKind, InfoErrorKind, ObjectStore},
};
use haltline_types::{limits::PAYLOAD_BYTES_MAX, payload::PayloadRef};
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::{
    Link,
    link::{ANSWERED_WITHIN, twice},
};

/// A payload of a few megabytes is stored or read within this.
const WITHIN: Duration = Duration::from_secs(10);

/// Why a payload cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// It is not there, or not what was stored.
    #[error("payload {0}: {1}")]
    Gone(String, String),
    /// The server does not say.
    #[error("payload {0}: {1}")]
    Unavailable(String, String),
}

/// Stores a payload, unless it is there already.
///
/// # Errors
/// `Unavailable`, also where there is no room for it.
pub async fn put(link: &Link, payload: &PayloadRef, json: &[u8]) -> Result<(), PayloadError> {
    let unavailable = |why: String| PayloadError::Unavailable(payload.object.clone(), why);
    let storing = async {
        // Repeated by whoever stores: what is stored twice is the same.
        let store = open(link, ANSWERED_WITHIN).await.map_err(unavailable)?;
        match store.info(&payload.object).await {
            // Named by what is in it.
            Ok(info) if info.size == payload.bytes => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == InfoErrorKind::NotFound => {}
            Err(e) => return Err(unavailable(e.to_string())),
        }
        let mut rest = json;
        store.put(payload.object.as_str(), &mut rest).await.map(|_| ()).map_err(|e| unavailable(e.to_string()))
    };
    tokio::time::timeout(WITHIN, storing).await.unwrap_or_else(|_| Err(unavailable(format!("was not stored within {WITHIN:?}"))))
}

/// Reads a payload, and of it what the reference means.
///
/// # Errors
/// `Gone` if it is not there, has no such part, or is not what its name says; `Unavailable` if that cannot be found out now.
pub async fn get(link: &Link, payload: &PayloadRef) -> Result<Value, PayloadError> {
    let gone = |why: String| PayloadError::Gone(payload.object.clone(), why);
    let unavailable = |why: String| PayloadError::Unavailable(payload.object.clone(), why);
    if payload.bytes > PAYLOAD_BYTES_MAX {
        return Err(gone(format!("has {} bytes, more than {PAYLOAD_BYTES_MAX}", payload.bytes)));
    }
    let read = |within| async move {
        let store = open(link, within).await.map_err(unavailable)?;
        let object = store.get(&payload.object).await.map_err(|e| match e.kind() {
            GetErrorKind::NotFound => gone("is not in the object store (any more)".into()),
            _ => unavailable(e.to_string()),
        })?;
        // One more than there may be, so that more is seen.
        let mut object = object.take(payload.bytes as u64 + 1);
        let mut json = Vec::with_capacity(payload.bytes);
        loop {
            // What reads for us misses the server that reads for it after 5 s only.
            let part = tokio::time::timeout(within, object.read_buf(&mut json)).await;
            match part.map_err(|_| unavailable(format!("nothing came within {within:?}")))? {
                Ok(0) => return Ok(json),
                Ok(_) => {}
                Err(e) => return Err(unavailable(e.to_string())),
            }
        }
    };
    let reading = twice(|e| matches!(e, PayloadError::Unavailable(..)), read);
    let json = tokio::time::timeout(WITHIN, reading).await.map_err(|_| unavailable(format!("was not read within {WITHIN:?}")))??;
    if !payload.is_true_of(&json) {
        return Err(gone("is not what was stored".into()));
    }
    let value: Value = serde_json::from_slice(&json).map_err(|e| gone(e.to_string()))?;
    match &payload.at {
        None => Ok(value),
        Some(at) => value.pointer(at).cloned().ok_or_else(|| gone(format!("has nothing at `{at}`"))),
    }
}

async fn open(link: &Link, within: Duration) -> Result<ObjectStore, String> {
    link.js_within(within).get_object_store(link.names.payloads_bucket()).await.map_err(|e| match e.kind() {
        ObjectStoreErrorKind::GetStore => format!("there is no object store; `haltline ensure` makes it ({e})"),
        _ => e.to_string(),
    })
}
