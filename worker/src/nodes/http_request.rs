//! An `http` node's request, read from its parameters and inputs.

use std::time::Duration;

use haltline_common::types::limits::{OUTPUT_BYTES_MAX, PAYLOAD_BYTES_MAX};
use reqwest::{
    Method, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;

use super::{client, params};
use crate::context::{Context, NodeError};

/// Headers that would change how the request is framed or where it goes.
const FORBIDDEN: [HeaderName; 5] = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE];

/// What an `http` node is to send, and what it is to take from the answer.
#[derive(Debug)]
pub struct HttpRequest {
    /// How.
    pub method: Method,
    /// Where to, with path segments and query.
    pub url: Url,
    /// All headers, those of [`client::identity`] included.
    pub headers: HeaderMap,
    /// JSON text.
    pub body: Option<String>,
    /// How long it may take, if less than the node.
    pub timeout: Option<Duration>,
    /// Whether it may change something: everything but GET and HEAD.
    pub acts: bool,
    /// Whether it may be sent again although it may have been acted on.
    pub repeatable: bool,
    /// How many bytes its answer may have.
    pub bytes_max: usize,
    /// Outputs from the body: name and JSON pointer.
    pub extract: Vec<(String, String)>,
}

impl HttpRequest {
    /// Reads it.
    ///
    /// # Errors
    /// `MissingInput` and `InvalidInput`, which name the parameter.
    pub fn read(ctx: &Context) -> Result<Self, NodeError> {
        let method = method(params::text_opt(ctx, "method")?.unwrap_or("GET"))?;
        let acts = !matches!(method, Method::GET | Method::HEAD);
        let mut headers = headers(ctx)?;
        let body = ctx.get("body").map(Value::to_string);
        if body.is_some() {
            if !acts {
                return Err(NodeError::invalid("body", format!("cannot go with {method}")));
            }
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        }
        // Last, so that no header of the workflow stands in for these.
        headers.extend(client::identity(ctx)?);
        Ok(Self {
            repeatable: params::flag(ctx, "idempotent", method != Method::POST)?,
            url: url(ctx)?,
            timeout: ctx.get("timeout").map(|v| params::millis("timeout", v)).transpose()?.map(|t| t.duration()),
            bytes_max: bytes_max(ctx)?,
            extract: extract(ctx)?,
            method,
            headers,
            body,
            acts,
        })
    }
}

fn method(text: &str) -> Result<Method, NodeError> {
    Ok(match text.to_ascii_uppercase().as_str() {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "DELETE" => Method::DELETE,
        _ => return Err(NodeError::invalid("method", format!("`{text}` is none of GET, POST, PUT, DELETE, HEAD"))),
    })
}

fn bytes_max(ctx: &Context) -> Result<usize, NodeError> {
    let Some(value) = ctx.get("max_bytes") else { return Ok(OUTPUT_BYTES_MAX) };
    let bytes = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=PAYLOAD_BYTES_MAX).contains(n));
    bytes.ok_or_else(|| NodeError::invalid("max_bytes", format!("must be a number from 1 to {PAYLOAD_BYTES_MAX}")))
}

fn url(ctx: &Context) -> Result<Url, NodeError> {
    let mut url = client::url("url", ctx.text("url")?)?;
    let segments = match ctx.get("path") {
        None => Vec::new(),
        Some(Value::Array(segments)) => segments.iter().map(|v| scalar(ctx, "path", v)).collect::<Result<_, _>>()?,
        Some(one) => vec![scalar(ctx, "path", one)?],
    };
    // A URL drops empty and dotted segments silently: the request would go elsewhere.
    if segments.iter().any(|s| matches!(s.as_str(), "" | "." | "..")) {
        return Err(NodeError::invalid("path", "must not have empty, `.` or `..` segments"));
    }
    if !segments.is_empty()
        && let Ok(mut path) = url.path_segments_mut()
    {
        path.pop_if_empty().extend(&segments);
    }
    if let Some(query) = params::object_opt(ctx, "query")? {
        for (name, value) in query {
            if !value.is_null() {
                let text = scalar(ctx, "query", value)?;
                url.query_pairs_mut().append_pair(name, &text);
            }
        }
    }
    Ok(url)
}

fn headers(ctx: &Context) -> Result<HeaderMap, NodeError> {
    let mut headers = HeaderMap::new();
    for (name, value) in params::object_opt(ctx, "headers")?.into_iter().flatten() {
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| NodeError::invalid("headers", format!("`{name}` is not a header's name")))?;
        if FORBIDDEN.contains(&key) {
            return Err(NodeError::invalid("headers", format!("`{name}` cannot be set")));
        }
        // The value may be a secret, so the message leaves it out.
        let value = HeaderValue::from_str(&scalar(ctx, "headers", value)?)
            .map_err(|_| NodeError::invalid("headers", format!("the value of `{name}` has characters that no header can carry")))?;
        headers.insert(key, value);
    }
    Ok(headers)
}

fn extract(ctx: &Context) -> Result<Vec<(String, String)>, NodeError> {
    let Some(map) = params::object_opt(ctx, "extract")? else { return Ok(Vec::new()) };
    map.iter()
        .map(|(name, pointer)| match pointer.as_str() {
            _ if matches!(name.as_str(), "status" | "body") => Err(NodeError::invalid("extract", format!("`{name}` is an output already"))),
            Some(pointer) if pointer.starts_with('/') => Ok((name.clone(), pointer.to_owned())),
            _ => Err(NodeError::invalid("extract", format!("`{name}` must be a JSON pointer, as /data/0/price"))),
        })
        .collect()
}

/// A text, number or bool as text; `{"input": "name"}` stands for the node's input of that name.
fn scalar(ctx: &Context, of: &str, value: &Value) -> Result<String, NodeError> {
    let value = match value {
        Value::Object(reference) if reference.len() == 1 => match reference.get("input") {
            Some(Value::String(name)) => match ctx.inputs.get(name) {
                None | Some(Value::Null) => {
                    return Err(NodeError::fatal("MissingInput", format!("`{of}` uses the input `{name}`, which is not there")));
                }
                Some(value) => value,
            },
            _ => value,
        },
        _ => value,
    };
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        _ => Err(NodeError::invalid(of, "takes texts, numbers, bools and {\"input\": name}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::super::testing::{ctx, kind};
    use super::*;

    #[test]
    fn path_and_query_are_encoded() {
        let ctx = ctx(
            json!({"url": "http://host/api/", "path": ["price", {"input": "symbol"}], "query": {"a b": "1&c=2", "n": 5, "d": {"input": "day"}, "none": null}}),
            json!({"symbol": "BRK/A?x", "day": "2008-09-29"}),
        );
        let request = HttpRequest::read(&ctx).unwrap();
        assert_eq!(request.url.as_str(), "http://host/api/price/BRK%2FA%3Fx?a+b=1%26c%3D2&d=2008-09-29&n=5");
        assert!(!request.acts && request.repeatable);
    }

    #[test]
    fn identity_cannot_be_replaced() {
        let mut ctx = ctx(
            json!({"url": "http://host", "method": "post", "body": {"a": 1}, "headers": {"Idempotency-Key": "mine", "X-Key": {"input": "key"}}}),
            json!({"key": 7}),
        );
        ctx.traceparent = "00-1-2-01".into();
        ctx.node_id = "größer".into();
        let request = HttpRequest::read(&ctx).unwrap();
        assert!(request.acts && !request.repeatable);
        assert_eq!(request.headers["idempotency-key"].as_bytes(), "exec_test_00000000/größer".as_bytes());
        assert_eq!(request.headers["haltline-execution"], "exec_test_00000000");
        assert_eq!(
            (&request.headers["haltline-token"], &request.headers["traceparent"]),
            (&"1".parse().unwrap(), &"00-1-2-01".parse().unwrap())
        );
        assert_eq!(
            (&request.headers["x-key"], &request.headers["content-type"]),
            (&"7".parse().unwrap(), &"application/json".parse().unwrap())
        );
        assert_eq!(request.body.as_deref(), Some("{\"a\":1}"));
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        for (field, value, error) in [
            ("url", json!(null), "MissingInput"),
            ("url", json!("file:///etc/passwd"), "InvalidInput"),
            ("method", json!("PATCH"), "InvalidInput"),
            ("body", json!({}), "InvalidInput"),
            ("path", json!(".."), "InvalidInput"),
            ("path", json!([""]), "InvalidInput"),
            ("query", json!([]), "InvalidInput"),
            ("query", json!({"a": [1]}), "InvalidInput"),
            ("query", json!({"a": {"input": "none"}}), "MissingInput"),
            ("headers", json!({"Host": "other"}), "InvalidInput"),
            ("headers", json!({"X": "a\r\nY: b"}), "InvalidInput"),
            ("headers", json!({"a b": "c"}), "InvalidInput"),
            ("extract", json!({"status": "/a"}), "InvalidInput"),
            ("extract", json!({"a": "b"}), "InvalidInput"),
            ("timeout", json!("soon"), "InvalidInput"),
            ("idempotent", json!("yes"), "InvalidInput"),
        ] {
            let mut params = json!({"url": "http://host"});
            params[field] = value.clone();
            assert_eq!(kind(&HttpRequest::read(&ctx(params, json!({}))).unwrap_err()), (error, false), "{field} {value}");
        }
    }
}
