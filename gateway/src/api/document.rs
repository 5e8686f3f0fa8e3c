//! The OpenAPI document. Own code instead of a library: of the two that fit axum, one derives from
//! another version of the schemas that the types have already, the other wants a second derive on all
//! of them; what is needed is this file.

use axum::http::Method;
use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{auth::Need, problem::Shape};

/// What people read first.
const ABOUT: &str = "Errors are problem+json (RFC 9457): `code` is stable and for programs, `field` names what is wrong, \
`retryable` says whether the same request can succeed later. Each operation names the role it needs: viewer, operator, admin; \
what a caller's scope does not cover does not exist for it.";

/// One operation, as it is put together.
pub(crate) struct Operation {
    value: Map<String, Value>,
    parameters: Vec<Value>,
    content: Map<String, Value>,
    statuses: &'static [u16],
    answer: Option<Value>,
}

impl Operation {
    /// With what is known before its signature is read.
    pub(super) fn new(id: &'static str, need: Need, about: &'static str, statuses: &'static [u16], path: &'static str) -> Self {
        let summary = about.split_inclusive(". ").next().unwrap_or(about).trim_end().trim_end_matches('.');
        let mut value = Map::new();
        value.insert("operationId".into(), id.into());
        value.insert("summary".into(), summary.into());
        value.insert("description".into(), about.into());
        value.insert("tags".into(), json!([tag(path)]));
        value.insert("x-haltline-needs".into(), need.as_str().into());
        if need == Need::Nothing {
            value.insert("security".into(), json!([]));
        }
        let parameters = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
            .collect();
        Self { value, parameters, content: Map::new(), statuses, answer: None }
    }

    /// Every field of an object as a parameter.
    pub(super) fn query(&mut self, schema: &Schema) {
        let value = schema.as_value();
        let required: Vec<&str> = value["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, schema) in value["properties"].as_object().into_iter().flatten() {
            let mut schema = schema.clone();
            let about = schema.as_object_mut().and_then(|s| s.remove("description")).unwrap_or_default();
            plain(&mut schema);
            self.parameters.push(json!({
                "name": name, "in": "query", "required": required.contains(&name.as_str()), "description": about, "schema": schema,
            }));
        }
    }

    /// A header that can be sent.
    pub(super) fn header(&mut self, name: &str, about: &str, schema: Value) {
        self.parameters.push(json!({ "name": name, "in": "header", "required": false, "description": about, "schema": schema }));
    }

    /// A form that the body can have.
    pub(super) fn body(&mut self, kind: &str, schema: Schema) {
        self.content.insert(kind.into(), json!({ "schema": schema }));
    }

    /// What a good answer has.
    pub(super) fn answer(&mut self, kind: &str, schema: Schema) {
        self.answer = Some(json!({ kind: { "schema": schema } }));
    }

    fn finish(mut self) -> Value {
        if !self.parameters.is_empty() {
            self.value.insert("parameters".into(), self.parameters.into());
        }
        if !self.content.is_empty() {
            self.value.insert("requestBody".into(), json!({ "required": true, "content": self.content }));
        }
        let mut responses = Map::new();
        for status in self.statuses {
            let mut response = json!({ "description": if *status == 202 { "stored; not done yet" } else { "done" } });
            if let (Some(content), true) = (&self.answer, *status != 204) {
                response["content"] = content.clone();
            }
            responses.insert(status.to_string(), response);
        }
        responses.insert("default".into(), json!({ "$ref": "#/components/responses/Problem" }));
        self.value.insert("responses".into(), responses.into());
        self.value.into()
    }
}

/// A parameter that may be absent is absent, not null.
fn plain(schema: &mut Value) {
    if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
        kinds.retain(|k| k != "null");
        if let [one] = kinds.as_slice() {
            schema["type"] = one.clone();
        }
    }
    if let Some(any) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        any.retain(|s| s["type"] != "null");
        if let [one] = any.as_slice() {
            *schema = one.clone();
        }
    }
    if let Some(map) = schema.as_object_mut() {
        map.retain(|k, v| !(k == "default" && v.is_null()));
    }
}

/// The resource an address is about.
fn tag(path: &str) -> &str {
    let mut parts = path.trim_start_matches('/').split('/');
    match parts.next() {
        Some("v1") => parts.next().unwrap_or("v1"),
        _ => "service",
    }
}

/// The document, as it is put together.
pub(super) struct Document {
    schemas: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Default for Document {
    fn default() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|s| {
            s.definitions_path = "/components/schemas".into();
            s.meta_schema = None;
        });
        Self { schemas: settings.into_generator(), paths: Map::new() }
    }
}

impl Document {
    pub(super) fn schemas(&mut self) -> &mut SchemaGenerator {
        &mut self.schemas
    }

    pub(super) fn add(&mut self, method: &Method, path: &str, operation: Operation) {
        let item = self.paths.entry(path).or_insert_with(|| json!({}));
        item[method.as_str().to_ascii_lowercase()] = operation.finish();
    }

    /// All of it.
    pub(super) fn json(&mut self) -> String {
        let problem = self.schemas.subschema_for::<Shape>();
        json!({
            "openapi": "3.1.0",
            "info": { "title": "Haltline", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT, "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" } },
            "servers": [{ "url": "/" }],
            "security": [{ "bearer": [] }, { "cookie": [] }],
            "paths": self.paths,
            "components": {
                "schemas": self.schemas.take_definitions(true),
                "responses": { "Problem": {
                    "description": "refused, or not possible now",
                    "content": { "application/problem+json": { "schema": problem } },
                } },
                "securitySchemes": {
                    "bearer": { "type": "http", "scheme": "bearer", "description": "an API token (hlt_...) or a JWT" },
                    "cookie": { "type": "apiKey", "in": "cookie", "name": crate::auth::COOKIE },
                },
            },
        })
        .to_string()
    }
}
