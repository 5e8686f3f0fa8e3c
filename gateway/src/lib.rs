//! Haltline's gateway: REST, a WebSocket that only reads, and a page. It decides nothing: it asks
//! coordinators over NATS, follows the log with one tail, and shows the control flag as stored.

mod api;
mod app;
mod audit;
mod auth;
mod cached;
mod describe;
mod feed;
mod fleet;
#[cfg(test)]
mod fuzz;
mod guard;
mod halt;
mod halts;
mod hub;
pub mod index;
mod limits;
mod net;
mod origin;
mod problem;
mod routes;
mod socketio;
mod sse;
mod stored;
mod ws;

use std::{sync::Arc, time::Duration};

use haltline_client::Client;
use haltline_common::{Link, config::GatewaySettings, control_watch::ControlWatch};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long open requests and sockets may take to end after the stop: longer than one `bye`, shorter
/// than what a supervisor waits before it kills.
const DRAIN: Duration = Duration::from_secs(10);
/// Connections besides WebSocket clients: requests in flight and keep-alive.
const HTTP_CONNECTIONS_MAX: usize = 1024;

/// Serves on `listener` until `stop` is cancelled, then says goodbye to sockets, finishes requests
/// (10 s at most) and returns.
///
/// # Errors
/// When NATS cannot be used at all; anything later is reported by `/health` and healed.
pub async fn run(link: Link, settings: GatewaySettings, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let client = Client::from_link(link.clone()).await?;
    let control = ControlWatch::start(&link, "gateway");
    let (halt, _halt_task) = halt::watch(control.clone());
    let (halts, _halts_task) = halts::watch(&link);
    let (hub, _hub_task) = hub::Hub::start(&link);
    let (index, _feed) = index::start(&link, &settings.index)?;
    let connections_max = settings.clients_max.saturating_add(HTTP_CONNECTIONS_MAX);
    let origins = Arc::new(origin::Origins::new(&settings, address.ip()));
    let auth = Arc::new(auth::Auth::open(&link, &settings).await?);
    let (audit, audit_task) = audit::Audit::start(&link);
    let limits = limits::Limits::new(settings.requests_per_s);
    let server = net::Server::new(listener, &settings.tls, connections_max)?;
    let app = app::Inner::new(app::Parts {
        link,
        client,
        auth,
        audit,
        limits,
        control,
        halt,
        halts,
        hub,
        index,
        origins,
        settings,
        stop: stop.clone(),
    });
    let router = routes::router(&app);
    tracing::info!(%address, tokens = app.auth.required(), "gateway listening");
    if !app.auth.required() {
        tracing::warn!("no token is needed: whoever can connect is an admin");
    }

    let over = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        () = server.serve(router, stop.clone()) => {}
        () = over => tracing::warn!("requests still open after {DRAIN:?}; leaving them"),
    }
    app.sessions.close();
    if tokio::time::timeout(DRAIN, app.sessions.wait()).await.is_err() {
        tracing::warn!("sockets still open after {DRAIN:?}; leaving them");
    }
    app.audit.close();
    if tokio::time::timeout(DRAIN, audit_task).await.is_err() {
        tracing::error!("what is on record about access could not be stored to its end");
    }
    Ok(())
}
