//! `threshold`: whether `value` lies within `min` and `max`, both included.
//!
//! `value`: a decimal, as number or text. `min`, `max`: decimals, at least one of them: a threshold
//! without limits would let everything pass. Outputs: `pass` (bool); `value`, `min`, `max` (decimal
//! texts, `null` for a limit that is not there).

use async_trait::async_trait;
use haltline_common::types::catalog::NodeType;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::{
    context::{Context, NodeError, Outputs},
    registry::Node,
};

/// The type.
pub struct Threshold;

#[async_trait]
impl Node for Threshold {
    fn describe(&self) -> NodeType {
        super::described("threshold")
    }

    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError> {
        let value = ctx.decimal("value")?;
        let (min, max) = (limit(ctx, "min")?, limit(ctx, "max")?);
        match (min, max) {
            (None, None) => return Err(NodeError::invalid("min", "or `max` must be given")),
            (Some(min), Some(max)) if min > max => return Err(NodeError::invalid("min", format!("{min} is above `max` {max}"))),
            _ => {}
        }
        let pass = min.is_none_or(|min| min <= value) && max.is_none_or(|max| value <= max);
        let text = |d: Option<Decimal>| d.map_or(Value::Null, |d| Value::String(d.to_string()));
        Ok(Outputs::from_iter([
            ("pass".to_owned(), json!(pass)),
            ("value".to_owned(), text(Some(value))),
            ("min".to_owned(), text(min)),
            ("max".to_owned(), text(max)),
        ]))
    }
}

/// A limit. One that is wired to an input must arrive: were `null` no limit, a failed lookup upstream
/// would open the threshold.
fn limit(ctx: &Context, name: &str) -> Result<Option<Decimal>, NodeError> {
    match ctx.inputs.get(name) {
        Some(Value::Null) => Err(NodeError::invalid(name, "is an input but null")),
        _ => ctx.decimal_opt(name),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::super::testing::{ctx, kind};
    use super::*;

    #[tokio::test]
    async fn limits_are_included_and_exact() {
        for (params, pass) in [
            (json!({"value": "0.3", "max": 0.3}), true),
            (json!({"value": "0.30000000000000000001", "max": "0.3"}), false),
            (json!({"value": 5, "min": 5}), true),
            (json!({"value": 4.99, "min": 5, "max": 6}), false),
            (json!({"value": -7, "min": "-1e1", "max": "-6"}), true),
        ] {
            assert_eq!(Threshold.run(&ctx(params.clone(), json!({}))).await.unwrap()["pass"], pass, "{params}");
        }
        let outputs = Threshold.run(&ctx(json!({"min": 1}), json!({"value": "2.50"}))).await.unwrap();
        assert_eq!(Value::Object(outputs), json!({"pass": true, "value": "2.50", "min": "1", "max": null}));
    }

    #[tokio::test]
    async fn what_is_unclear_fails() {
        for (params, inputs, error) in [
            (json!({"value": 1}), json!({}), "InvalidInput"),
            (json!({"value": 1, "min": null, "max": null}), json!({}), "InvalidInput"),
            (json!({"value": 1, "min": 1}), json!({"max": null}), "InvalidInput"),
            (json!({"value": 1, "min": 2, "max": 1}), json!({}), "InvalidInput"),
            (json!({"value": "NaN", "min": 2}), json!({}), "InvalidInput"),
            (json!({"value": true, "min": 2}), json!({}), "InvalidInput"),
            (json!({"value": null, "min": 2}), json!({}), "MissingInput"),
        ] {
            let failure = Threshold.run(&ctx(params.clone(), inputs.clone())).await.unwrap_err();
            assert_eq!(kind(&failure), (error, false), "{params} {inputs}");
        }
    }
}
