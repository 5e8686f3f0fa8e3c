//! Reading and writing bucket entries, one at a time: for commands, gateways and starts, not for
//! the paths that carry load.

use async_nats::{HeaderMap, jetstream::stream::LastRawMessageErrorKind};
use bytes::Bytes;
use haltline_types::{
    Names,
    error::{ApiError, Code},
    record::Record,
};

use crate::{
    Link,
    link::twice,
    outbox::{Write, WriteError},
    publisher::Publisher,
};

/// An entry of a bucket.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its value; `None` if deleted or purged.
    pub value: Option<Bytes>,
    /// Its revision.
    pub revision: u64,
}

pub(crate) fn unavailable(e: impl std::fmt::Display) -> ApiError {
    ApiError::new(Code::Unavailable, format!("nats-server does not answer: {e}"))
}

/// Whether a bucket's message marks that its key was deleted, purged or has expired.
pub fn is_deletion(headers: &HeaderMap) -> bool {
    headers.get("KV-Operation").is_some() || headers.get("Nats-Marker-Reason").is_some()
}

/// The current entry of a key, asked from the stream's leader.
pub async fn get(link: &Link, bucket: &str, key: &str) -> Result<Option<Entry>, ApiError> {
    let (stream, subject) = &(Names::bucket_stream(bucket), Names::kv_subject(bucket, key));
    let ask = |within| async move {
        let stream = link.js_within(within).get_stream_no_info(stream).await.map_err(unavailable)?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(m) => {
                let value = (!is_deletion(&m.headers)).then_some(m.payload);
                Ok(Some(Entry { value, revision: m.sequence }))
            }
            Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(e) => Err(unavailable(e)),
        }
    };
    twice(|e: &ApiError| e.code == Code::Unavailable, ask).await
}

/// Writes an entry if its revision is still `revision` (0: if there was never one; a deletion has a
/// revision of its own).
pub async fn swap(publisher: &Publisher, bucket: &str, key: &str, revision: u64, value: impl Into<Bytes>) -> Result<u64, ApiError> {
    let write = Write::swap(Names::kv_subject(bucket, key), revision, value);
    match publisher.write(write).await {
        Ok(stored) => Ok(stored.seq),
        Err(WriteError::Conflict(_)) => Err(ApiError::new(Code::Conflict, format!("{bucket}/{key} was changed by someone else"))),
        Err(e) => Err(unavailable(e)),
    }
}

/// The same by one request that is not repeated: after a time-out it is not known whether it was stored.
pub async fn swap_once(link: &Link, bucket: &str, key: &str, revision: u64, value: impl Into<Bytes>) -> Result<u64, ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string());
    let subject = Names::kv_subject(bucket, key);
    let ack = link.js.publish_with_headers(subject, headers, value.into()).await.map_err(unavailable)?;
    match ack.await {
        Ok(ack) => Ok(ack.sequence),
        // The kind does not tell a conflict with a write in flight from other failures; the text does.
        Err(e) if e.to_string().contains("wrong last sequence") => {
            Err(ApiError::new(Code::Conflict, format!("{bucket}/{key} was changed by someone else")))
        }
        Err(e) => Err(unavailable(e)),
    }
}

/// Writes an entry, whatever it was.
pub async fn put(publisher: &Publisher, bucket: &str, key: &str, value: impl Into<Bytes>) -> Result<u64, ApiError> {
    let write = Write::repeatable(Names::kv_subject(bucket, key), HeaderMap::new(), value);
    publisher.write(write).await.map(|s| s.seq).map_err(unavailable)
}

/// Removes an entry, leaving a marker.
pub async fn delete(publisher: &Publisher, bucket: &str, key: &str) -> Result<(), ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    let write = Write::repeatable(Names::kv_subject(bucket, key), headers, Bytes::new());
    publisher.write(write).await.map(|_| ()).map_err(unavailable)
}

/// An execution's record and its revision.
pub async fn record(link: &Link, execution_id: &str) -> Result<Option<(Record, u64)>, ApiError> {
    let key = haltline_types::ids::token(execution_id);
    let Some(entry) = get(link, &link.names.executions_bucket(), &key).await? else { return Ok(None) };
    let Some(value) = entry.value else { return Ok(None) };
    let record = serde_json::from_slice(&value)
        .map_err(|e| ApiError::new(Code::Internal, format!("the record of {execution_id} is malformed: {e}")))?;
    Ok(Some((record, entry.revision)))
}
