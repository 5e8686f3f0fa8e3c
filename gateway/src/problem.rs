//! Errors on HTTP: problem+json (RFC 9457), also for what the router itself refuses.

use axum::{
    body::to_bytes,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use haltline_client::ApiError;
use haltline_common::types::error::Code;
use serde_json::{Map, Value, json};

use crate::audit::Noted;

const CONTENT_TYPE: &str = "application/problem+json";
/// Bytes read of a foreign error text; they are short sentences.
const TEXT_MAX: usize = 8 * 1024;

/// The form of an error, for the document. Members of an operation's own may follow.
#[derive(schemars::JsonSchema)]
#[schemars(rename = "Problem")]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct Shape {
    /// `urn:haltline:problem:` and the code.
    r#type: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What is wrong, for people.
    detail: String,
    /// What is wrong, for programs: stable.
    code: String,
    /// What it is about: a path into the body, a parameter, a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Whether the same request can succeed later.
    #[serde(default)]
    retryable: bool,
}

/// An error as it is answered.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: String,
    detail: String,
    field: Option<String>,
    more: Map<String, Value>,
}

impl Problem {
    /// One that no [`Code`] stands for.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), detail: detail.into(), field: None, more: Map::new() }
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// What is wrong, for people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What it is about, if that is known.
    #[cfg(test)]
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// Another status: 400 for what is not even readable.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

impl From<ApiError> for Problem {
    fn from(e: ApiError) -> Self {
        let status = StatusCode::from_u16(e.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut more = match e.detail {
            Value::Object(more) => more,
            Value::Null => Map::new(),
            other => Map::from_iter([("more".to_owned(), other)]),
        };
        more.insert("retryable".into(), e.code.retryable().into());
        Self { status, code: format!("{:?}", e.code), detail: e.message, field: e.field, more }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let noted = Noted { reason: self.detail.clone(), ..Noted::default() };
        let mut body = json!({
            "type": format!("urn:haltline:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        if let Value::Object(map) = &mut body {
            if let Some(field) = self.field {
                map.insert("field".into(), field.into());
            }
            // Details never hide the members above.
            for (key, value) in self.more {
                map.entry(key).or_insert(value);
            }
        }
        let mut response = (self.status, body.to_string()).into_response();
        response.extensions_mut().insert(noted);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            // The rest of the body stays unread, so the connection cannot be used again.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Makes problems of errors that are plain text: of extractors, the router, the body limit.
pub(crate) async fn wrap(response: Response) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    // Problems, and health answers that say in JSON what is missing, are well as they are.
    if response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v == CONTENT_TYPE || v == "application/json") {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = to_bytes(body, TEXT_MAX).await.map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let (code, fallback) = match status {
        StatusCode::NOT_FOUND => ("NotFound", "there is nothing at this address"),
        StatusCode::METHOD_NOT_ALLOWED => ("MethodNotAllowed", "this address does not know that method"),
        StatusCode::PAYLOAD_TOO_LARGE => ("TooLarge", "the body is too large"),
        _ if status.is_server_error() => ("Internal", "the gateway failed"),
        _ => ("Invalid", "the request cannot be understood"),
    };
    let detail = if text.is_empty() { fallback.to_owned() } else { text };
    let mut wrapped = Problem::new(status, code, detail).into_response();
    // `Allow` and the like stay.
    for (name, value) in &parts.headers {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            wrapped.headers_mut().insert(name, value.clone());
        }
    }
    wrapped
}

/// That there is no such execution.
pub(crate) fn no_execution(id: &str) -> Problem {
    ApiError::new(Code::UnknownExecution, format!("there is no execution `{id}`")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn errors_carry_code_field_and_details() {
        let e = ApiError::invalid("input", "must be an object").with_detail(json!({ "problems": [1], "status": 200 }));
        let response = Problem::from(e).into_response();
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
        let body: Value = serde_json::from_slice(&to_bytes(response.into_body(), 4096).await.expect("body")).expect("json");
        assert_eq!(body["code"], "Invalid");
        assert_eq!(body["field"], "input");
        assert_eq!(body["status"], 422);
        assert_eq!(body["problems"], json!([1]));
    }

    #[tokio::test]
    async fn plain_errors_become_problems() {
        let response = wrap((StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")]).into_response()).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
        assert_eq!(response.headers()[header::ALLOW], "GET");
    }
}
