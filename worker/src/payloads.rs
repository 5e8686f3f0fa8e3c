//! Payloads by reference: before a node runs its inputs are whole, and after it what is too large for a message is in
//! the object store.

use std::time::{Duration, Instant};

use haltline_common::{
    Link, clock, fault,
    payloads::{self, PayloadError},
    retry::Reconnect,
    types::{
        Timestamp, json,
        limits::{OUTPUT_INLINE_BYTES_MAX, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN, PAYLOADS_BYTES_MAX},
        payload::{self, PayloadRef},
    },
};
use haltline_core::NodeOutcome;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

/// Bytes of payloads that all nodes of a worker may have brought back at once.
const ROOM_BYTES: usize = 256 << 20;
/// What the room is counted in.
const ROOM_UNIT: usize = 1024;
/// What cannot be stored for so long fails its node: longer than a server takes to start.
const STORED_WITHIN: Duration = Duration::from_secs(30);
/// What is said to be missing for so long is gone: who says so may not be the leader any more.
const FOUND_WITHIN: Duration = Duration::from_secs(3);

/// How a worker brings payloads back and puts them away.
pub struct Payloads {
    link: Link,
    room: Semaphore,
}

/// How long it is worth to wait.
pub struct Until<'a> {
    /// The execution was stopped, or the worker gives up.
    pub cancel: &'a CancellationToken,
    /// The execution's.
    pub deadline: Timestamp,
}

impl Payloads {
    /// Over `link`.
    pub fn new(link: Link) -> Self {
        Self { link, room: Semaphore::new(ROOM_BYTES / ROOM_UNIT) }
    }

    /// Inputs with what they refer to, and the room that it takes; how the node ends if that cannot be had.
    pub async fn whole(
        &self,
        execution_id: &str,
        mut inputs: Map<String, Value>,
        until: &Until<'_>,
    ) -> Result<(Map<String, Value>, Option<SemaphorePermit<'_>>), NodeOutcome> {
        let refs: Vec<(String, PayloadRef)> =
            inputs.iter().filter(|(_, v)| payload::is_marked(v)).filter_map(|(name, v)| Some((name.clone(), PayloadRef::of(v)?))).collect();
        if refs.is_empty() {
            return Ok((inputs, None));
        }
        let bytes = refs.iter().fold(0usize, |sum, (_, r)| sum.saturating_add(r.bytes));
        if bytes > PAYLOADS_BYTES_MAX {
            return Err(failed("InputTooLarge", format!("the inputs have {bytes} bytes, more than {PAYLOADS_BYTES_MAX}"), false));
        }
        let room = until.cancelled_or(self.room.acquire_many(bytes.div_ceil(ROOM_UNIT) as u32)).await?.ok();
        for (name, reference) in refs {
            if !reference.is_of(execution_id) {
                let message = format!("input `{name}` refers to a payload of another execution: {}", reference.object);
                return Err(failed("PayloadMissing", message, false));
            }
            let (mut missing_since, mut delays) = (None, Reconnect::new(Duration::from_secs(1)));
            let value = loop {
                let error = match until.cancelled_or(payloads::get(&self.link, &reference)).await? {
                    Ok(value) => break value,
                    Err(e) => e,
                };
                let is_gone = matches!(error, PayloadError::Gone(..));
                if is_gone && missing_since.get_or_insert_with(Instant::now).elapsed() > FOUND_WITHIN {
                    return Err(failed("PayloadMissing", format!("input `{name}`: {error}"), false));
                }
                until.wait(&mut delays, &error).await?;
            };
            inputs.insert(name, value);
        }
        Ok((inputs, room))
    }

    /// Outputs of which the large ones are references; how the node ends if they cannot be stored.
    pub async fn put_away(
        &self,
        execution_id: &str,
        outputs: Map<String, Value>,
        until: &Until<'_>,
    ) -> Result<Map<String, Value>, NodeOutcome> {
        let mut kept = Map::new();
        for (name, value) in outputs {
            if payload::is_marked(&value) {
                return Err(failed(
                    "InvalidOutput",
                    format!("output `{name}` has the key `{}`, which stands for a reference", payload::MARK),
                    false,
                ));
            }
            if json::size(&value) < PAYLOAD_BYTES_MIN {
                kept.insert(name, value);
                continue;
            }
            let json = value.to_string().into_bytes();
            if json.len() > PAYLOAD_BYTES_MAX {
                return Err(failed(
                    "OutputTooLarge",
                    format!("output `{name}` has {} bytes, more than {PAYLOAD_BYTES_MAX}", json.len()),
                    false,
                ));
            }
            let reference = PayloadRef::new(execution_id, &json);
            let (since, mut delays) = (Instant::now(), Reconnect::new(Duration::from_secs(1)));
            while let Err(error) = until.cancelled_or(payloads::put(&self.link, &reference, &json)).await? {
                if since.elapsed() > STORED_WITHIN {
                    return Err(failed("PayloadNotStored", format!("output `{name}`: {error}"), true));
                }
                until.wait(&mut delays, &error).await?;
            }
            fault::point("worker.payload");
            kept.insert(name, reference.to_value());
        }
        Ok(kept)
    }
}

/// Whether outputs have to be looked at by [`Payloads::put_away`]; says no of most without writing them.
pub fn must_put_away(outputs: &Map<String, Value>) -> bool {
    json::exceeds(outputs, OUTPUT_INLINE_BYTES_MAX) || outputs.values().any(payload::is_marked)
}

impl Until<'_> {
    /// What `work` comes to, unless it is not wanted any more.
    async fn cancelled_or<T>(&self, work: impl Future<Output = T>) -> Result<T, NodeOutcome> {
        tokio::select! {
            done = work => Ok(done),
            () = self.cancel.cancelled() => Err(NodeOutcome::Cancelled),
        }
    }

    /// Waits before another try.
    async fn wait(&self, delays: &mut Reconnect, error: &PayloadError) -> Result<(), NodeOutcome> {
        if clock::now() > self.deadline {
            return Err(NodeOutcome::Cancelled);
        }
        tracing::warn!(error = %error, "the object store does not serve a payload; trying again");
        self.cancelled_or(tokio::time::sleep(delays.next_delay())).await
    }
}

fn failed(error_type: &str, message: String, retryable: bool) -> NodeOutcome {
    NodeOutcome::Failed { error_type: error_type.into(), message, retryable }
}
