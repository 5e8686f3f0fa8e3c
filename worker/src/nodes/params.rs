//! Reading parameters and inputs that several nodes have in common.

use haltline_common::types::Millis;
use serde_json::{Map, Value};

use crate::context::{Context, NodeError};

/// A yes or no; `default` if it is not there.
pub fn flag(ctx: &Context, name: &str, default: bool) -> Result<bool, NodeError> {
    match ctx.get(name) {
        None => Ok(default),
        Some(Value::Bool(b)) => Ok(*b),
        Some(_) => Err(NodeError::invalid(name, "must be true or false")),
    }
}

/// A text, if it is there.
pub fn text_opt<'c>(ctx: &'c Context, name: &str) -> Result<Option<&'c str>, NodeError> {
    ctx.get(name).map(|v| v.as_str().ok_or_else(|| NodeError::invalid(name, "must be a text"))).transpose()
}

/// An object, if it is there.
pub fn object_opt<'c>(ctx: &'c Context, name: &str) -> Result<Option<&'c Map<String, Value>>, NodeError> {
    ctx.get(name).map(|v| v.as_object().ok_or_else(|| NodeError::invalid(name, "must be an object"))).transpose()
}

/// A duration: text with a unit (`500ms`, `5s`), or a number of seconds.
pub fn millis(name: &str, value: &Value) -> Result<Millis, NodeError> {
    serde_json::from_value(value.clone()).map_err(|e| NodeError::invalid(name, format!("is not a duration: {e}")))
}
