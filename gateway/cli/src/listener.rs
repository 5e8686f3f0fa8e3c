//! `/metrics` and `/livez` of coordinators and workers, which listen nowhere else. Off unless an
//! address is set; the gateway serves both on its own port.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::{Router, http::header, routing::get};
use haltline_common::{config::MetricsSettings, metrics};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// What Prometheus calls its text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A listener that ends when this is dropped.
pub struct Listener {
    _task: AbortOnDropHandle<()>,
}

/// Opens the listener if the settings name an address.
///
/// # Errors
/// When the address is none, or cannot be had; says what to do about it.
pub async fn open(settings: &MetricsSettings) -> anyhow::Result<Option<Listener>> {
    let Some(address) = settings.address().map_err(anyhow::Error::msg)? else { return Ok(None) };
    let advice = || format!("cannot listen on {address} for metrics; choose another by --metrics (port 0 draws one)");
    let listener = TcpListener::bind(address).await.with_context(advice)?;
    let address: SocketAddr = listener.local_addr().with_context(advice)?;
    tracing::info!(%address, "metrics listening");
    let router = Router::new()
        .route("/metrics", get(async || ([(header::CONTENT_TYPE, TEXT)], metrics::render())))
        .route("/livez", get(async || axum::Json(serde_json::json!({ "live": true }))));
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    Ok(Some(Listener { _task: AbortOnDropHandle::new(task) }))
}
