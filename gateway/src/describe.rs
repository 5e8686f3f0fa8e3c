//! The event protocol for machines: JSON Schemas of its frames and an AsyncAPI document around them,
//! made from the types. The files in `gateway/schemas` are these; a test compares them.

use haltline_common::types::feed::{ClientFrame, FRAME_MAX, PROTOCOL, ServerFrame};
use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// One schema a frame's kind, all definitions beside it.
fn schema_of<T: schemars::JsonSchema>(title: &str) -> Value {
    let generator: SchemaGenerator = SchemaSettings::draft2020_12().into_generator();
    let schema: Schema = generator.into_root_schema_for::<T>();
    let mut value = serde_json::to_value(schema).unwrap_or_default();
    value["title"] = title.into();
    value
}

/// What clients send.
pub(crate) fn client() -> Value {
    schema_of::<ClientFrame>("What clients of haltline.v1.json send")
}

/// What gateways send.
pub(crate) fn server() -> Value {
    schema_of::<ServerFrame>("What gateways of haltline.v1.json send")
}

/// The kinds of a schema's frames: each with its part.
fn kinds(schema: &Value) -> Vec<(String, Value)> {
    let parts = schema["oneOf"].as_array().cloned().unwrap_or_default();
    parts.into_iter().filter_map(|part| Some((part["properties"]["t"]["const"].as_str()?.to_owned(), part))).collect()
}

/// The AsyncAPI document.
pub(crate) fn asyncapi() -> Value {
    let (mut messages, mut schemas) = (Map::new(), Map::new());
    let mut channel = Map::new();
    let mut sides = Vec::new();
    for (side, schema) in [("client", client()), ("server", server())] {
        let mut names = Vec::new();
        for (name, definition) in schema["$defs"].as_object().cloned().unwrap_or_default() {
            schemas.insert(name, moved(definition));
        }
        for (kind, part) in kinds(&schema) {
            let name = format!("{side}.{kind}");
            let about = part["description"].as_str().unwrap_or_default().to_owned();
            messages
                .insert(name.clone(), json!({ "name": kind, "summary": about, "contentType": "application/json", "payload": moved(part) }));
            channel.insert(name.clone(), json!({ "$ref": format!("#/components/messages/{name}") }));
            names.push(json!({ "$ref": format!("#/channels/events/messages/{name}") }));
        }
        sides.push(names);
    }
    let (sent, received) = (sides.pop().unwrap_or_default(), sides.pop().unwrap_or_default());
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Haltline events", "version": "1",
            "description": "Events of Haltline on a WebSocket that only reads. gateway/PROTOCOL.md tells it in words.",
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": { "gateway": { "host": "127.0.0.1:8001", "protocol": "ws", "description": "A gateway; wss behind TLS" } },
        "channels": { "events": {
            "address": "/v1/ws",
            "description": format!("Subprotocol {PROTOCOL}; frames of a client have at most {FRAME_MAX} bytes."),
            "messages": channel,
        } },
        "operations": {
            "ask": { "action": "receive", "channel": { "$ref": "#/channels/events" }, "summary": "What a client sends.", "messages": received },
            "tell": { "action": "send", "channel": { "$ref": "#/channels/events" }, "summary": "What a gateway sends.", "messages": sent },
        },
        "components": { "messages": messages, "schemas": schemas },
    })
}

/// References to definitions point to the document's components.
fn moved(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, v)| match (&*key, v.as_str().and_then(|r| r.strip_prefix("#/$defs/"))) {
                    ("$ref", Some(name)) => (key, format!("#/components/schemas/{name}").into()),
                    _ => (key, moved(v)),
                })
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(moved).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares a file with what it should be; writes it first where `HALTLINE_WRITE_SCHEMAS` is set.
    fn compare(name: &str, wanted: &Value) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas").join(name);
        let text = format!("{}\n", serde_json::to_string_pretty(wanted).expect("JSON"));
        if std::env::var_os("HALTLINE_WRITE_SCHEMAS").is_some() {
            std::fs::write(&path, &text).expect("written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "{} is not made from the types: HALTLINE_WRITE_SCHEMAS=1 cargo test -p haltline-gateway describe",
            path.display()
        );
    }

    #[test]
    fn the_files_are_made_from_the_types() {
        compare("client.json", &client());
        compare("server.json", &server());
        compare("asyncapi.json", &asyncapi());
    }

    #[test]
    fn every_frame_is_described_in_words_and_for_machines() {
        let words = include_str!("../PROTOCOL.md");
        for (schema, count) in [(client(), 5), (server(), 13)] {
            let kinds = kinds(&schema);
            assert_eq!(kinds.len(), count, "{kinds:?}");
            for (kind, part) in kinds {
                assert!(words.contains(&format!("`{kind}`")), "PROTOCOL.md says nothing of `{kind}`");
                assert!(part["description"].is_string(), "{kind}");
            }
        }
        let document = asyncapi().to_string();
        assert!(!document.contains("#/$defs/"));
        assert_eq!(asyncapi()["components"]["messages"].as_object().map(Map::len), Some(18));
    }

    #[test]
    fn every_code_is_told() {
        let words = include_str!("../PROTOCOL.md");
        let codes = server()["$defs"]["Code"]["oneOf"].as_array().cloned().expect("codes");
        assert!(codes.len() > 10);
        for code in codes {
            let code = code["const"].as_str().expect("a word").to_owned();
            assert!(words.contains(&format!("`{code}`")), "PROTOCOL.md says nothing of `{code}`");
        }
        use haltline_common::types::feed::close;
        for code in [
            close::SHUTDOWN,
            close::SLOW,
            close::UPSTREAM,
            close::NO_PONG,
            close::RATE,
            close::BAD_TOKEN,
            close::FORBIDDEN,
            close::HELLO,
            close::BAD_FRAME,
            close::TOO_BIG,
        ] {
            assert!(words.contains(&format!("| {code} |")), "PROTOCOL.md says nothing of {code}");
        }
    }
}
