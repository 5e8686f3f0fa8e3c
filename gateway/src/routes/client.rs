//! The event client for browsers and Node, as it is in the repository: two files in the program itself.

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};

use crate::{api::Api, auth::Need, describe};

/// Adds them: code that anyone may read.
pub(super) fn add(api: &mut Api) {
    api.page("/client/haltline.js", script, Need::Nothing).page("/client/haltline.d.ts", types, Need::Nothing).page(
        "/v1/asyncapi.json",
        asyncapi,
        Need::Nothing,
    );
}

fn file(kind: &'static str, text: impl IntoResponse) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // A client and a gateway of different builds should not meet for long.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("../../js/haltline.js"))
}

/// The event protocol for machines.
async fn asyncapi() -> Response {
    file("application/json", describe::asyncapi().to_string())
}

async fn types() -> Response {
    file("text/plain; charset=utf-8", include_str!("../../js/haltline.d.ts"))
}
