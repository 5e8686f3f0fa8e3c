//! `static`: gives fixed values, and passes its inputs on under their names.
//!
//! Parameter `outputs`: an object; absent means empty. Every input becomes an output of its name and
//! wins over a fixed value of the same name.

use async_trait::async_trait;
use haltline_common::types::catalog::NodeType;
use serde_json::{Map, Value};

use crate::{
    context::{Context, NodeError, Outputs},
    registry::Node,
};

/// The type.
pub struct Static;

#[async_trait]
impl Node for Static {
    fn describe(&self) -> NodeType {
        super::described("static")
    }

    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError> {
        let mut outputs = match ctx.params.get("outputs") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(fixed)) => fixed.clone(),
            Some(_) => return Err(NodeError::invalid("outputs", "must be an object")),
        };
        outputs.extend(ctx.inputs.clone());
        Ok(outputs)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::super::testing::{ctx, kind};
    use super::*;

    #[tokio::test]
    async fn inputs_join_the_fixed_values() {
        let run = async |params, inputs| Static.run(&ctx(params, inputs)).await.map(Value::Object);
        assert_eq!(run(json!({"outputs": {"a": 1, "b": [2]}}), json!({})).await, Ok(json!({"a": 1, "b": [2]})));
        assert_eq!(run(json!({"outputs": {"a": 1}}), json!({"a": 2, "c": null})).await, Ok(json!({"a": 2, "c": null})));
        assert_eq!(run(json!({}), json!({})).await, Ok(json!({})));
        assert_eq!(kind(&run(json!({"outputs": []}), json!({})).await.unwrap_err()), ("InvalidInput", false));
    }
}
