//! Reading definitions: from text, and from their bucket.

use haltline_types::{
    Names,
    catalog::{NodeType, built_in_types},
    definition::{Definition, OnError},
    error::{ApiError, Code},
    limits::{JSON_DEPTH_MAX, MESSAGE_BYTES_MAX},
};
use serde_json::Value;

use crate::{Link, kv, publisher::Publisher};

/// Parses a definition from JSON or YAML.
pub fn parse(text: &str) -> Result<Definition, ApiError> {
    let value = parse_value(text)?;
    from_value(value)
}

/// Parses a JSON or YAML document within the limits of size and depth.
pub fn parse_value(text: &str) -> Result<Value, ApiError> {
    if text.len() > MESSAGE_BYTES_MAX {
        return Err(ApiError::new(Code::TooLarge, format!("the document has {} bytes, more than {MESSAGE_BYTES_MAX}", text.len())));
    }
    let looks_json = text.trim_start().starts_with(['{', '[']);
    let value: Value = if looks_json {
        serde_json::from_str(text).map_err(|e| ApiError::invalid("document", format!("malformed JSON: {e}")))?
    } else {
        // Strict: `y` and `no` are names people use, not booleans.
        let options = serde_saphyr::options! { strict_booleans: true };
        serde_saphyr::from_str_with_options(text, options).map_err(|e| ApiError::invalid("document", format!("malformed YAML: {e}")))?
    };
    check_depth(&value)?;
    Ok(value)
}

/// Refuses values nested too deeply.
pub fn check_depth(value: &Value) -> Result<(), ApiError> {
    fn depth(v: &Value, left: usize) -> bool {
        match v {
            Value::Array(a) => left > 0 && a.iter().all(|v| depth(v, left - 1)),
            Value::Object(o) => left > 0 && o.values().all(|v| depth(v, left - 1)),
            _ => true,
        }
    }
    if depth(value, JSON_DEPTH_MAX) { Ok(()) } else { Err(ApiError::new(Code::TooLarge, format!("nested deeper than {JSON_DEPTH_MAX}"))) }
}

/// Reads the shape of a definition; an error names the node and field.
pub fn from_value(value: Value) -> Result<Definition, ApiError> {
    if let Some(nodes) = value.get("nodes").and_then(Value::as_array) {
        for (i, node) in nodes.iter().enumerate() {
            let id = node.get("id").and_then(Value::as_str).unwrap_or("?");
            if let Some(on_error) = node.get("on_error")
                && serde_json::from_value::<OnError>(on_error.clone()).is_err()
            {
                let message = format!("node `{id}`: must be `fail`, `skip`, `continue` or {{\"use\": {{outputs}}}}");
                return Err(ApiError::invalid(format!("nodes[{i}].on_error"), message));
            }
            if let Err(e) = serde_json::from_value::<haltline_types::definition::NodeDef>(node.clone()) {
                return Err(ApiError::invalid(format!("nodes[{i}]"), format!("node `{id}`: {}", shape_error(&e))));
            }
        }
    }
    serde_json::from_value(value).map_err(|e| ApiError::invalid("definition", shape_error(&e)))
}

fn shape_error(e: &serde_json::Error) -> String {
    let text = e.to_string();
    if text.contains("did not match any variant of untagged enum InputRef") {
        return "an input must be {\"node\": .., \"output\": ..}, {\"input\": ..} or {\"value\": ..}".into();
    }
    text
}

/// Every node type this installation knows: the built-in ones and those that workers stored.
pub async fn known_types(link: &Link) -> Result<Vec<NodeType>, ApiError> {
    use futures_util::TryStreamExt;
    let mut types = built_in_types();
    let unavailable = |e: String| ApiError::new(Code::Unavailable, format!("reading node types: {e}"));
    let store = link.js.get_key_value(link.names.types_bucket()).await.map_err(|e| unavailable(e.to_string()))?;
    let keys: Vec<String> =
        store.keys().await.map_err(|e| unavailable(e.to_string()))?.try_collect().await.map_err(|e| unavailable(e.to_string()))?;
    for key in keys {
        let value = store.get(&key).await.map_err(|e| unavailable(e.to_string()))?;
        match value.as_deref().map(serde_json::from_slice::<NodeType>) {
            Some(Ok(t)) if types.iter().all(|k| k.name != t.name) => types.push(t),
            Some(Err(e)) => tracing::warn!(key, error = %e, "a stored node type is malformed; ignored"),
            _ => {}
        }
    }
    Ok(types)
}

/// The version that a workflow's pointer names.
pub async fn latest_version(link: &Link, workflow_id: &str) -> Result<Option<String>, ApiError> {
    let entry = kv::get(link, &link.names.definitions_bucket(), &Names::latest_key(workflow_id)).await?;
    let Some(value) = entry.and_then(|e| e.value) else { return Ok(None) };
    let pointer: Value = serde_json::from_slice(&value).map_err(|e| ApiError::new(Code::Internal, format!("malformed pointer: {e}")))?;
    Ok(pointer.get("version").and_then(Value::as_str).map(str::to_owned))
}

/// A stored definition.
pub async fn get(link: &Link, workflow_id: &str, version: &str) -> Result<Option<Definition>, ApiError> {
    let key = Names::definition_key(workflow_id, version);
    let entry = kv::get(link, &link.names.definitions_bucket(), &key).await?;
    let Some(value) = entry.and_then(|e| e.value) else { return Ok(None) };
    serde_json::from_slice(&value).map(Some).map_err(|e| ApiError::new(Code::Internal, format!("the definition {key} is malformed: {e}")))
}

/// Stores a validated definition. `true` if it is new; the same version with other content is a
/// conflict. The pointer to the latest version follows.
pub async fn put(link: &Link, publisher: &Publisher, definition: &Definition) -> Result<bool, ApiError> {
    let bucket = link.names.definitions_bucket();
    let json = serde_json::to_vec(definition).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
    if json.len() > MESSAGE_BYTES_MAX {
        return Err(ApiError::new(Code::TooLarge, format!("the definition has {} bytes, more than {MESSAGE_BYTES_MAX}", json.len())));
    }
    let key = Names::definition_key(&definition.id, &definition.version);
    let new = match kv::swap(publisher, &bucket, &key, 0, json).await {
        Ok(_) => true,
        Err(e) if e.code == Code::Conflict => {
            if get(link, &definition.id, &definition.version).await?.as_ref() != Some(definition) {
                let message = format!(
                    "workflow {} version {} exists with other content; versions are immutable: use a new one",
                    definition.id, definition.version
                );
                return Err(ApiError { field: Some("version".into()), ..ApiError::new(Code::Conflict, message) });
            }
            false
        }
        Err(e) => return Err(e),
    };
    if new || latest_version(link, &definition.id).await?.is_none() {
        let pointer = serde_json::json!({ "id": definition.id, "version": definition.version, "at": crate::clock::now() });
        kv::put(publisher, &bucket, &Names::latest_key(&definition.id), pointer.to_string()).await?;
    }
    Ok(new)
}
