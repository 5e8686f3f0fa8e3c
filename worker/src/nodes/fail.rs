//! `fail`: fails, for tests and drills.
//!
//! `message`, `error_type` (default `Failed`), `retryable` (default: whether `error_type` is
//! `Timeout` or `Connection`), `attempts`: how many attempts fail before one succeeds (default: all).
//! Outputs: `attempt`, the number of the one that succeeded.

use async_trait::async_trait;
use haltline_common::types::{
    catalog::NodeType,
    limits::{ID_BYTES_MAX, TEXT_BYTES_MAX},
};
use serde_json::json;

use super::params;
use crate::{
    context::{Context, NodeError, Outputs},
    registry::Node,
};

/// The type.
pub struct Fail;

#[async_trait]
impl Node for Fail {
    fn describe(&self) -> NodeType {
        super::described("fail")
    }

    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError> {
        let message = bounded(ctx, "message", TEXT_BYTES_MAX)?.unwrap_or("this node fails on purpose");
        let error_type = bounded(ctx, "error_type", ID_BYTES_MAX)?.unwrap_or("Failed");
        let retryable = params::flag(ctx, "retryable", matches!(error_type, "Timeout" | "Connection"))?;
        let failing = match ctx.get("attempts") {
            None => u64::MAX,
            Some(n) => n.as_u64().ok_or_else(|| NodeError::invalid("attempts", "must be a whole number from 0"))?,
        };
        if u64::from(ctx.attempt) <= failing {
            let error = if retryable { NodeError::retryable(error_type, message) } else { NodeError::fatal(error_type, message) };
            return Err(error);
        }
        Ok(Outputs::from_iter([("attempt".to_owned(), json!(ctx.attempt))]))
    }
}

fn bounded<'c>(ctx: &'c Context, name: &str, max: usize) -> Result<Option<&'c str>, NodeError> {
    match params::text_opt(ctx, name)? {
        Some(text) if text.is_empty() || text.len() > max => Err(NodeError::invalid(name, format!("must have 1 to {max} bytes"))),
        text => Ok(text),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::testing::{ctx, kind};
    use super::*;

    #[tokio::test]
    async fn it_fails_as_asked() {
        for (params, expected) in [
            (json!({}), ("Failed", false)),
            (json!({"error_type": "Timeout"}), ("Timeout", true)),
            (json!({"error_type": "Connection", "retryable": false}), ("Connection", false)),
            (json!({"error_type": "Odd", "retryable": true}), ("Odd", true)),
            (json!({"retryable": "yes"}), ("InvalidInput", false)),
            (json!({"attempts": -1}), ("InvalidInput", false)),
        ] {
            assert_eq!(kind(&Fail.run(&ctx(params.clone(), json!({}))).await.unwrap_err()), expected, "{params}");
        }
        let failure = Fail.run(&ctx(json!({"message": "drill"}), json!({}))).await.unwrap_err();
        assert_eq!(failure.to_string(), "drill");
    }

    #[tokio::test]
    async fn it_succeeds_after_so_many_attempts() {
        let mut ctx = ctx(json!({"attempts": 2, "error_type": "Timeout"}), json!({}));
        for attempt in 1..=2 {
            ctx.attempt = attempt;
            assert!(Fail.run(&ctx).await.is_err());
        }
        ctx.attempt = 3;
        assert_eq!(Fail.run(&ctx).await.unwrap()["attempt"], 3);
    }
}
