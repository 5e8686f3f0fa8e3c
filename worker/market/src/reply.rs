//! Answers: errors as `{error, field}`, and arrays that are sent piece by piece.

use axum::{
    Json,
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;

/// A request that was not done.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    field: String,
    error: String,
}

impl Refused {
    /// With a status, about `field` (empty: about the whole request).
    pub fn new(status: StatusCode, field: &str, error: impl Into<String>) -> Self {
        let error = error.into();
        let error = if field.is_empty() { error } else { format!("{field}: {error}") };
        Self { status, field: field.to_owned(), error }
    }

    /// Bad input: 422.
    pub fn invalid(field: &str, error: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, field, error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let field = if self.field.is_empty() { None } else { Some(self.field) };
        (self.status, Json(json!({ "error": self.error, "field": field }))).into_response()
    }
}

/// A JSON array whose inside `next` gives piece by piece, with the commas; `None` ends it. An answer
/// of any length needs the memory of one piece.
pub fn array<F>(mut next: F) -> Response
where
    F: FnMut() -> std::io::Result<Option<Vec<u8>>> + Send + 'static,
{
    enum At {
        Start,
        Inside,
        End,
    }
    let pieces = stream::unfold(At::Start, move |at| {
        let piece = match at {
            At::Start => Some((Ok(Bytes::from_static(b"[")), At::Inside)),
            At::Inside => match next() {
                Ok(Some(piece)) => Some((Ok(Bytes::from(piece)), At::Inside)),
                Ok(None) => Some((Ok(Bytes::from_static(b"]")), At::End)),
                // The connection breaks off: a reader must not take half an array for the whole.
                Err(error) => Some((Err(error), At::End)),
            },
            At::End => None,
        };
        std::future::ready(piece)
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(pieces)).into_response()
}
