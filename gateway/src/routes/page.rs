//! The dashboard: its files, in the program itself.

use axum::{
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{api::Api, auth::Need};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Files of `src/page` under `/ui/`.
macro_rules! files {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("../page/", $name)))),*]
    };
}

/// By name.
const FILES: [(&str, &str); 25] = files!(
    "api.js" "app.css" "app.js" "audit.js" "confirm.js" "control.js" "dom.js" "events.js" "execution.js" "executions.js" "fold.js" "graph.js"
    "history.js" "layout.js" "node.js" "overview.js" "parts.js" "risk.js" "shell.js" "state.js" "text.js" "timeline.js" "workers.js"
    "workflow.js" "workflows.js"
);

/// Adds them: they hold nothing that needs a token, and ask for one.
pub(super) fn add(api: &mut Api) {
    api.page("/", index, Need::Nothing).page("/ui/{file}", one, Need::Nothing);
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // Files of different builds must not meet.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

async fn index() -> Response {
    file(HTML, include_str!("../page/index.html"))
}

async fn one(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => file(if name.ends_with(".css") { STYLE } else { SCRIPT }, text),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/page")).expect("the folder");
        let mut there: Vec<String> = folder.map(|f| f.expect("a file").file_name().into_string().expect("a name")).collect();
        there.retain(|n| n != "index.html");
        there.sort();
        assert_eq!(there, FILES.map(|(name, _)| name.to_owned()));
    }
}
