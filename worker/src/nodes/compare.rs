//! `compare`: `left` `operator` `right`.
//!
//! `operator`: `lt` `<`, `le` `<=`, `gt` `>`, `ge` `>=`, `eq` `==`, `ne` `!=`. When both sides are
//! decimals (numbers, or texts with numbers) they compare exactly as such; other values can only be
//! equal or not, by their JSON. Outputs: `result` (bool), `left`, `right` (as they came).

use std::cmp::Ordering;

use async_trait::async_trait;
use haltline_common::types::catalog::NodeType;
use serde_json::{Value, json};

use crate::{
    context::{Context, NodeError, Outputs, to_decimal},
    registry::Node,
};

/// The type.
pub struct Compare;

#[async_trait]
impl Node for Compare {
    fn describe(&self) -> NodeType {
        super::described("compare")
    }

    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError> {
        let (left, right) = (ctx.require("left")?, ctx.require("right")?);
        let result = holds(left, ctx.text("operator")?, right)?;
        Ok(Outputs::from_iter([
            ("result".to_owned(), json!(result)),
            ("left".to_owned(), left.clone()),
            ("right".to_owned(), right.clone()),
        ]))
    }
}

fn holds(left: &Value, operator: &str, right: &Value) -> Result<bool, NodeError> {
    let order = match (to_decimal("left", left), to_decimal("right", right)) {
        (Ok(l), Ok(r)) => Some(l.cmp(&r)),
        _ => None,
    };
    let equal = order.map_or_else(|| left == right, Ordering::is_eq);
    let ordered = || order.ok_or_else(|| NodeError::invalid("operator", format!("`{operator}` needs a number on both sides")));
    Ok(match operator.trim() {
        "eq" | "==" => equal,
        "ne" | "!=" => !equal,
        "lt" | "<" => ordered()?.is_lt(),
        "le" | "<=" => ordered()?.is_le(),
        "gt" | ">" => ordered()?.is_gt(),
        "ge" | ">=" => ordered()?.is_ge(),
        other => return Err(NodeError::invalid("operator", format!("`{other}` is none of lt, le, gt, ge, eq, ne, <, <=, >, >=, ==, !="))),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::testing::{ctx, kind};
    use super::*;

    #[test]
    fn numbers_compare_as_decimals_the_rest_as_json() {
        for (left, operator, right, result) in [
            (json!("10"), "eq", json!(10.0), true),
            (json!("9"), "lt", json!("10"), true),
            (json!(0.1), "<", json!("0.10000000000000000001"), true),
            (json!(2), ">=", json!(2), true),
            (json!(2), "le", json!(1), false),
            (json!(2), "!=", json!(1), true),
            (json!("buy"), "==", json!("buy"), true),
            (json!("buy"), "ne", json!(1), true),
            (json!({"a": [1]}), "eq", json!({"a": [1]}), true),
            (json!(true), "eq", json!("true"), false),
        ] {
            assert_eq!(holds(&left, operator, &right), Ok(result), "{left} {operator} {right}");
        }
        for (left, operator, right) in [(json!("a"), "lt", json!("b")), (json!(1), ">", json!(true)), (json!(1), "=", json!(1))] {
            assert_eq!(kind(&holds(&left, operator, &right).unwrap_err()), ("InvalidInput", false), "{left} {operator} {right}");
        }
    }

    #[tokio::test]
    async fn outputs_and_absent_sides() {
        let outputs = Compare.run(&ctx(json!({"operator": ">", "right": 1}), json!({"left": "2.0"}))).await.unwrap();
        assert_eq!(Value::Object(outputs), json!({"result": true, "left": "2.0", "right": 1}));
        let failure = Compare.run(&ctx(json!({"operator": "ne", "right": 1}), json!({"left": null}))).await.unwrap_err();
        assert_eq!(kind(&failure), ("MissingInput", false));
    }
}
