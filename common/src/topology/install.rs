//! The control bucket's first values: its flag, and the marker that tells it from one that was made again.

use std::time::{Duration, Instant};

use haltline_types::{
    Names,
    control::{ControlValue, GLOBAL_KEY, INSTALL_KEY, Level, Marker, Scope},
    error::{ApiError, Code},
};

use crate::{
    Link, clock, control,
    js::{self, ApiFailure},
    kv,
};

/// How long another process that ensures at the same time may take between the bucket and its marker.
const OTHERS: Duration = Duration::from_secs(2);

/// Sees to flag and marker. `made`: this process has just made the bucket; `fresh`: with the installation.
///
/// The flag is written once: normal at first install, halted where the installation is older than
/// its control bucket. A bucket that someone else made, or that has been emptied, is halted and marked.
pub(super) async fn mark(link: &Link, made: bool, fresh: bool) -> Result<(), ApiFailure> {
    if made {
        let (state, reason) = if fresh {
            (Level::Normal, "first install")
        } else {
            (Level::Halt, "the control bucket was missing and had to be created again")
        };
        first_flag(link, state, reason).await?;
        return remark(link).await;
    }
    let until = Instant::now() + OTHERS;
    loop {
        let created = js::stream_info(link, &Names::bucket_stream(&link.names.control_bucket())).await?.created;
        let why = match marker(link).await? {
            (Some(m), _) if m.stream_created == created => return Ok(()),
            (Some(m), _) => format!("the control bucket was made again: its install marker is of one created {}", m.stream_created),
            (None, _) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            (None, _) => "the control bucket had no install marker: it was made again or emptied".to_owned(),
        };
        control::raise(link, &Scope::Global, Level::Halt, "haltline ensure", &why).await.map_err(silent)?;
        return remark(link).await;
    }
}

/// Marks the control bucket as the one of this installation, as it is now.
///
/// # Errors
/// When nats-server does not answer.
pub async fn remark(link: &Link) -> Result<(), ApiFailure> {
    let bucket = link.names.control_bucket();
    let created = js::stream_info(link, &Names::bucket_stream(&bucket)).await?.created;
    let (old, revision) = marker(link).await?;
    if old.as_ref().is_some_and(|m| m.stream_created == created) {
        return Ok(());
    }
    let marker = Marker {
        install: old.map_or_else(|| uuid::Uuid::new_v4().to_string(), |m| m.install),
        stream_created: created,
        by: "haltline".into(),
        at: clock::now(),
    };
    let body = serde_json::to_vec(&marker).unwrap_or_default();
    match kv::swap_once(link, &bucket, INSTALL_KEY, revision, body).await {
        Ok(_) => Ok(()),
        // Another process that ensures at the same time was first.
        Err(e) if e.code == Code::Conflict => Ok(()),
        Err(e) => Err(silent(e)),
    }
}

async fn marker(link: &Link) -> Result<(Option<Marker>, u64), ApiFailure> {
    let entry = kv::get(link, &link.names.control_bucket(), INSTALL_KEY).await.map_err(silent)?;
    Ok(entry.map_or((None, 0), |e| (e.value.and_then(|v| serde_json::from_slice(&v).ok()), e.revision)))
}

async fn first_flag(link: &Link, state: Level, reason: &str) -> Result<(), ApiFailure> {
    let value = ControlValue {
        state,
        reason: reason.into(),
        by: "haltline ensure".into(),
        verified: false,
        at: Some(clock::now()),
        replaces: Some(0),
    };
    let body = serde_json::to_vec(&value).unwrap_or_default();
    match kv::swap_once(link, &link.names.control_bucket(), GLOBAL_KEY, 0, body).await {
        Ok(_) => Ok(()),
        // Another process that ensures at the same time was first: its value stands.
        Err(e) if e.code == Code::Conflict => Ok(()),
        Err(e) => Err(silent(e)),
    }
}

fn silent(e: ApiError) -> ApiFailure {
    ApiFailure::Silent(e.message)
}
