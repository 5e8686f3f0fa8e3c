//! What handlers take and give: each is checked in the same way and described where it is defined.
//! Limits first, then syntax (400), then shape (422); the answer names the field.

use std::net::IpAddr;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Request, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use haltline_client::{ApiError, Code};
use haltline_common::{definitions::check_depth, types::limits::MESSAGE_BYTES_MAX};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Input, Operation, Output};
use crate::{
    app::App,
    audit::{Asker, Noted},
    auth::Principal,
    guard,
    net::Peer,
    problem::Problem,
};

/// What follows the `?`.
pub(crate) struct Asked<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Reads a query.
///
/// # Errors
/// `Invalid` with 400, naming the field.
pub(crate) fn query<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let pairs = serde_html_form::Deserializer::from_bytes(text.as_bytes());
    serde_path_to_error::deserialize(pairs).map_err(|e| Problem::from(misshaped(&e, "query")).with_status(StatusCode::BAD_REQUEST))
}

impl<T: JsonSchema> Input for Asked<T> {
    fn describe(operation: &mut Operation, schemas: &mut SchemaGenerator) {
        operation.query(&T::json_schema(schemas));
    }
}

/// A body of JSON; an empty one counts as `{}`.
pub(crate) struct Given<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Given<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &App) -> Result<Self, Problem> {
        let Raw { bytes, .. } = Raw::from_request(request, state).await?;
        body(&bytes).map(Self)
    }
}

/// Reads a body of JSON, which is an object: a list would be taken field by field.
///
/// # Errors
/// As [`parse`]; `Invalid`, naming the field, where the shape is another one.
pub(crate) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let value = parse(bytes)?;
    if !value.is_object() {
        return Err(ApiError::invalid("body", "must be a JSON object").into());
    }
    serde_path_to_error::deserialize(value).map_err(|e| misshaped(&e, "body").into())
}

impl<T: JsonSchema> Input for Given<T> {
    fn describe(operation: &mut Operation, schemas: &mut SchemaGenerator) {
        operation.body("application/json", schemas.subschema_for::<T>());
    }
}

/// JSON of any shape within the limits; an empty text counts as `{}`.
///
/// # Errors
/// `Invalid` with 400 for what is no JSON, `TooLarge` for what nests too deep.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Problem> {
    if bytes.is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let malformed = |e: serde_json::Error| {
        Problem::from(ApiError::invalid("body", format!("malformed JSON: {e}"))).with_status(StatusCode::BAD_REQUEST)
    };
    let value: Value = serde_json::from_slice(bytes).map_err(malformed)?;
    check_depth(&value)?;
    Ok(value)
}

/// Names the field: the path, or the one that serde's sentence is about.
fn misshaped<E: std::fmt::Display>(e: &serde_path_to_error::Error<E>, whole: &str) -> ApiError {
    let text = e.inner().to_string();
    let named =
        ["unknown field `", "missing field `", "duplicate field `"].iter().find_map(|start| text.strip_prefix(start)?.split('`').next());
    let path = Some(e.path().to_string()).filter(|p| p != ".");
    let field = match (path, named) {
        (Some(path), Some(name)) if !path.ends_with(name) => format!("{path}.{name}"),
        (Some(path), _) => path,
        (None, Some(name)) => name.to_owned(),
        (None, None) => whole.to_owned(),
    };
    ApiError::invalid(field, text)
}

/// A body as it came, within the limits.
pub(crate) struct Raw {
    /// All of it.
    pub bytes: Bytes,
    /// Whether it is said to be JSON.
    pub json: bool,
}

impl FromRequest<App> for Raw {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &App) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let json = kind.to_ascii_lowercase().contains("json");
        let bytes = Bytes::from_request(request, state).await.map_err(unread)?;
        Ok(Self { bytes, json })
    }
}

fn unread(e: BytesRejection) -> Problem {
    if e.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(Code::TooLarge, format!("the body has more than {MESSAGE_BYTES_MAX} bytes")).into();
    }
    Problem::new(StatusCode::BAD_REQUEST, "Invalid", "the body could not be read")
}

/// The definition of a workflow, in either form.
impl Input for Raw {
    fn describe(operation: &mut Operation, schemas: &mut SchemaGenerator) {
        let schema = schemas.subschema_for::<haltline_common::types::definition::Definition>();
        operation.body("application/yaml", schemas::text());
        operation.body("application/json", schema);
    }
}

mod schemas {
    pub(super) fn text() -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

/// `Idempotency-Key`: what makes a repeat a repeat; drawn if it is absent.
pub(crate) struct Key(pub String);

impl FromRequestParts<App> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        match parts.headers.get("idempotency-key") {
            Some(value) => {
                let text = value.to_str().map_err(|_| ApiError::invalid("Idempotency-Key", "must be visible ASCII"))?;
                if text.is_empty() || text.len() > haltline_common::types::limits::KEY_BYTES_MAX {
                    return Err(ApiError::invalid("Idempotency-Key", "must have 1 to 256 bytes").into());
                }
                Ok(Self(text.to_owned()))
            }
            None => Ok(Self(uuid::Uuid::new_v4().to_string())),
        }
    }
}

impl Input for Key {
    fn describe(operation: &mut Operation, _: &mut SchemaGenerator) {
        let about = "The same key and body give the same execution again; the same key with another body is refused.";
        operation.header(
            "Idempotency-Key",
            about,
            json!({ "type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]+( [!-~]+)*$" }),
        );
    }
}

/// `If-Match`: the revision that the caller has seen.
pub(crate) struct Expected(pub Option<u64>);

impl FromRequestParts<App> for Expected {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default().trim();
        let number = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
        let revision = number
            .parse()
            .map_err(|_| ApiError::invalid("If-Match", "must be one revision, as \"7\": the ETag of the value that was read"))?;
        Ok(Self(Some(revision)))
    }
}

impl Input for Expected {
    fn describe(operation: &mut Operation, _: &mut SchemaGenerator) {
        let about = "The revision that was read (its ETag): the change is refused with 412 if it is another one by now.";
        operation.header("If-Match", about, json!({ "type": "string", "pattern": "^\"?[0-9]{1,19}\"?$" }));
    }
}

/// From where a request without a token comes: for logging in.
pub(crate) struct Page {
    headers: HeaderMap,
    address: Option<IpAddr>,
}

impl FromRequestParts<App> for Page {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        Ok(Self { headers: parts.headers.clone(), address: parts.extensions.get::<Peer>().map(|p| p.0) })
    }
}

impl Input for Page {}

impl Page {
    /// That no page of elsewhere sent it; programs say nothing of pages.
    ///
    /// # Errors
    /// 403.
    pub fn own(&self, app: &App) -> Result<(), Problem> {
        let browser = self.headers.contains_key(header::ORIGIN) || self.headers.contains_key("sec-fetch-site");
        if browser { guard::own_page(app, &self.headers) } else { Ok(()) }
    }

    /// Whose token this is; what is refused goes on record.
    ///
    /// # Errors
    /// 401, 429, 503.
    pub async fn try_token(&self, app: &App, action: &str, token: &str) -> Result<Principal, Problem> {
        let asker = Asker { address: self.address, ..Asker::default() };
        match guard::token(app, token, self.address).await {
            Ok(principal) => {
                app.audit.change(&Asker::of(&principal, self.address, ""), action, "", 200, Noted::default()).await;
                Ok(principal)
            }
            Err(problem) => {
                app.audit.refusal(&asker, action, "", problem.status(), problem.detail()).await;
                Err(problem)
            }
        }
    }
}

/// An answer of JSON.
pub(crate) struct Reply<T> {
    status: StatusCode,
    headers: HeaderMap,
    noted: Option<Noted>,
    body: T,
}

impl<T> Reply<T> {
    /// With 200.
    pub fn ok(body: T) -> Self {
        Self::with(StatusCode::OK, body)
    }
    /// With 202: stored, and not done yet.
    pub fn accepted(body: T) -> Self {
        Self::with(StatusCode::ACCEPTED, body)
    }
    /// With another status.
    pub fn with(status: StatusCode, body: T) -> Self {
        Self { status, headers: HeaderMap::new(), noted: None, body }
    }
    /// With a header; a value that cannot be one is left out.
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }
    /// With what goes on record about it.
    pub fn noted(mut self, noted: Noted) -> Self {
        self.noted = Some(noted);
        self
    }
    /// With the revision as `ETag`.
    pub fn revision(self, revision: u64) -> Self {
        self.header(header::ETAG, &format!("\"{revision}\""))
    }
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.body) {
            Ok(bytes) => {
                let mut response = (self.status, self.headers, Body::from(bytes)).into_response();
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                if let Some(noted) = self.noted {
                    response.extensions_mut().insert(noted);
                }
                response
            }
            Err(e) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", e.to_string()).into_response(),
        }
    }
}

impl<T: JsonSchema> Output for Reply<T> {
    fn describe(operation: &mut Operation, schemas: &mut SchemaGenerator) {
        operation.answer("application/json", schemas.subschema_for::<T>());
    }
}

/// An answer of plain text of a kind.
pub(crate) struct Text(pub &'static str, pub String);

impl IntoResponse for Text {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(self.0));
        response
    }
}

impl Output for Text {
    fn describe(operation: &mut Operation, _: &mut SchemaGenerator) {
        operation.answer("text/plain", schemas::text());
    }
}
