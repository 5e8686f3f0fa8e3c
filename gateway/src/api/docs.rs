//! The document, a page that shows it and one to log in; they need nothing from elsewhere.

use std::sync::Arc;

use axum::{
    Extension,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};

use super::Api;
use crate::auth::Need;

/// The finished document.
#[derive(Clone)]
pub(super) struct Shown(pub Arc<str>);

/// Adds them. None tells more than the source does.
pub(super) fn add(api: &mut Api) {
    api.page("/v1/openapi.json", document, Need::Nothing)
        .page("/docs", page, Need::Nothing)
        .page("/docs.js", script, Need::Nothing)
        .page("/docs.css", style, Need::Nothing)
        .page("/login", login, Need::Nothing)
        .page("/login.js", login_script, Need::Nothing);
}

async fn document(Extension(Shown(document)): Extension<Shown>) -> Response {
    file("application/json", document.to_string())
}

async fn page() -> Response {
    file("text/html; charset=utf-8", include_str!("docs/docs.html").into())
}

async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("docs/docs.js").into())
}

async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("docs/docs.css").into())
}

async fn login() -> Response {
    file("text/html; charset=utf-8", include_str!("docs/login.html").into())
}

async fn login_script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("docs/login.js").into())
}

fn file(kind: &'static str, text: String) -> Response {
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
