//! `log`: writes one line into the worker's log.
//!
//! `message`: a text of at most 1 KiB; another value is written as its JSON. Outputs: `message`, the
//! text.

use async_trait::async_trait;
use haltline_common::types::{catalog::NodeType, limits::TEXT_BYTES_MAX};
use serde_json::Value;

use crate::{
    context::{Context, NodeError, Outputs},
    registry::Node,
};

/// The type.
pub struct Log;

#[async_trait]
impl Node for Log {
    fn describe(&self) -> NodeType {
        super::described("log")
    }

    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError> {
        let text = match ctx.require("message")? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if text.len() > TEXT_BYTES_MAX {
            return Err(NodeError::invalid("message", format!("has {} bytes, more than {TEXT_BYTES_MAX}", text.len())));
        }
        let c = &ctx.correlation;
        tracing::info!(
            execution_id = c.execution_id.as_str(),
            workflow_id = c.workflow_id.as_str(),
            bot_id = c.bot_id.as_str(),
            strategy_id = c.strategy_id.as_str(),
            node_id = ctx.node_id.as_str(),
            attempt = ctx.attempt,
            "{}",
            one_line(&text)
        );
        Ok(Outputs::from_iter([("message".to_owned(), Value::String(text))]))
    }
}

/// Escapes control characters: a line end in a message must not look like another log line, nor an
/// escape sequence reach someone's terminal.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::super::testing::{ctx, kind};
    use super::*;

    #[tokio::test]
    async fn the_message_is_given_on_and_bounded() {
        let run = async |message: Value| Log.run(&ctx(json!({}), json!({ "message": message }))).await;
        assert_eq!(run(json!("hallo\nwelt")).await.unwrap()["message"], "hallo\nwelt");
        assert_eq!(run(json!({"a": 1})).await.unwrap()["message"], "{\"a\":1}");
        assert_eq!(kind(&run(json!("x".repeat(1025))).await.unwrap_err()), ("InvalidInput", false));
        assert_eq!(kind(&run(Value::Null).await.unwrap_err()), ("MissingInput", false));
        assert_eq!(one_line("grün\n\u{1b}[31m"), "grün\\n\\u{1b}[31m");
    }
}
