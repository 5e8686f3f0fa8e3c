//! The time that windows of limits are counted by: nats-server's. Clocks of workers may be set to anything; each
//! asks what time the server has, and counts on from there by the time since its machine was started.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use haltline_types::{
    Names, Timestamp,
    error::{ApiError, Code},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{Link, clock, js};

/// How often the server is asked: quartz differs by less than 3 ms in that time.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// An answer that took longer says too little: it may be off by half of that.
const WITHIN: Duration = Duration::from_secs(1);

/// What time nats-server has. Cheap to clone.
#[derive(Clone)]
pub struct ServerTime {
    link: Link,
    /// The server's time, and when that was here.
    known: Arc<Mutex<Option<(Timestamp, Duration)>>>,
}

impl ServerTime {
    /// Not asked yet.
    pub fn new(link: &Link) -> Self {
        Self { link: link.clone(), known: Arc::default() }
    }

    /// Now, off by half a second at most.
    ///
    /// # Errors
    /// `Unavailable` if the server does not say so in time.
    pub async fn now(&self) -> Result<Timestamp, ApiError> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((server, here)) = known {
            let since = clock::boot().saturating_sub(here);
            if since < ASK_EVERY {
                return Ok(later(server, since));
            }
        }
        let (server, here) = ask(&self.link).await?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((server, here));
        Ok(later(server, clock::boot().saturating_sub(here)))
    }
}

/// What time it is by the server of the risk bucket, and when that was by this machine.
async fn ask(link: &Link) -> Result<(Timestamp, Duration), ApiError> {
    #[derive(Deserialize)]
    struct Told {
        ts: String,
    }
    let unavailable = |why: String| ApiError::new(Code::Unavailable, format!("nats-server does not say what time it is: {why}"));
    let stream = Names::bucket_stream(&link.names.risk_bucket());
    let began = clock::boot();
    let told = js::api::<Told>(link, &format!("STREAM.INFO.{stream}"), &Value::Null).await.map_err(|e| unavailable(e.to_string()))?;
    let took = clock::boot().saturating_sub(began);
    if took > WITHIN {
        return Err(unavailable(format!("its answer took {took:?}")));
    }
    let server = Timestamp::parse(&told.ts).map_err(|e| unavailable(e.to_string()))?;
    // Somewhere between the question and the answer.
    Ok((server, began + took / 2))
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    Timestamp(at.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}
