//! Reading request bodies: limits, then syntax (400), then shape (422).

use axum::{body::Bytes, extract::rejection::BytesRejection, http::StatusCode, response::IntoResponse};
use haltline_client::{ApiError, Code};
use haltline_common::{definitions::check_depth, types::limits::MESSAGE_BYTES_MAX};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::Problem;

/// What the extractor gives.
pub(crate) type Raw = Result<Bytes, BytesRejection>;

/// The body's bytes.
pub(crate) fn bytes(raw: Raw) -> Result<Bytes, Problem> {
    raw.map_err(|e| {
        let status = e.into_response().status();
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            ApiError::new(Code::TooLarge, format!("the body has more than {MESSAGE_BYTES_MAX} bytes")).into()
        } else {
            Problem::new(StatusCode::BAD_REQUEST, "Invalid", "the body could not be read")
        }
    })
}

/// The body as text.
pub(crate) fn text(raw: Raw) -> Result<String, Problem> {
    let bytes = bytes(raw)?;
    String::from_utf8(bytes.into())
        .map_err(|_| Problem::from(ApiError::invalid("body", "is not UTF-8")).with_status(StatusCode::BAD_REQUEST))
}

/// The body as JSON of a shape; an empty body counts as `{}`.
pub(crate) fn json<T: DeserializeOwned>(raw: Raw) -> Result<T, Problem> {
    let bytes = bytes(raw)?;
    let malformed = |e: serde_json::Error| {
        Problem::from(ApiError::invalid("body", format!("malformed JSON: {e}"))).with_status(StatusCode::BAD_REQUEST)
    };
    let value: Value =
        if bytes.is_empty() { Value::Object(serde_json::Map::new()) } else { serde_json::from_slice(&bytes).map_err(malformed)? };
    check_depth(&value)?;
    serde_json::from_value(value).map_err(|e| ApiError::invalid("body", e.to_string()).into())
}
