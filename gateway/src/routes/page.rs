//! The page: three files in the program itself.

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};

use crate::{api::Api, auth::Need};

/// Adds them: they hold nothing that needs a token, and ask for one.
pub(super) fn add(api: &mut Api) {
    api.page("/", index, Need::Nothing).page("/app.js", script, Need::Nothing).page("/app.css", style, Need::Nothing);
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // A page and a script of different builds must not meet.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

async fn index() -> Response {
    file("text/html; charset=utf-8", include_str!("../page/index.html"))
}

async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("../page/app.js"))
}

async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("../page/app.css"))
}
