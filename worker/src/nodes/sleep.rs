//! `sleep`: waits, and stops waiting when it is cancelled.
//!
//! `duration`: a text with a unit (`500ms`, `5s`, `2m`) or a number of seconds, at most a day; the
//! node's time-out ends a longer wait as a failure. Outputs: `slept_ms`, as measured.

use async_trait::async_trait;
use haltline_common::types::{Millis, catalog::NodeType, limits::NODE_TIMEOUT_MS_MAX};
use serde_json::json;
use tokio::time::Instant;

use super::params;
use crate::{
    context::{Context, NodeError, Outputs},
    registry::Node,
};

/// The type.
pub struct Sleep;

#[async_trait]
impl Node for Sleep {
    fn describe(&self) -> NodeType {
        super::described("sleep")
    }

    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError> {
        let duration = params::millis("duration", ctx.require("duration")?)?;
        if duration.0 > NODE_TIMEOUT_MS_MAX {
            return Err(NodeError::invalid("duration", format!("{duration} is more than {}", Millis(NODE_TIMEOUT_MS_MAX))));
        }
        let began = Instant::now();
        tokio::select! {
            // First, so that a node which is cancelled already does not count as having slept.
            biased;
            () = ctx.cancel.cancelled() => Err(NodeError::Cancelled),
            () = tokio::time::sleep(duration.duration()) => {
                let slept = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                Ok(Outputs::from_iter([("slept_ms".to_owned(), json!(slept))]))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::testing::{ctx, kind};
    use super::*;

    #[tokio::test]
    async fn it_waits() {
        for duration in [json!("30ms"), json!(0.03)] {
            let outputs = Sleep.run(&ctx(json!({ "duration": duration }), json!({}))).await.unwrap();
            assert!((30..1000).contains(&outputs["slept_ms"].as_u64().unwrap()), "{outputs:?}");
        }
        for duration in [json!("soon"), json!(-1), json!("25h"), json!(true)] {
            let failure = Sleep.run(&ctx(json!({ "duration": duration }), json!({}))).await.unwrap_err();
            assert_eq!(kind(&failure), ("InvalidInput", false), "{duration}");
        }
    }

    #[tokio::test]
    async fn a_cancel_ends_it() {
        let ctx = ctx(json!({"duration": "1h"}), json!({}));
        let (began, cancel) = (Instant::now(), ctx.cancel.clone());
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            cancel.cancel();
        });
        assert_eq!(Sleep.run(&ctx).await, Err(NodeError::Cancelled));
        assert!(began.elapsed().as_secs() < 5);
    }
}
