//! The WebSocket `/v1/ws`, subprotocol `haltline.v1.json`: it only reads. Submitting, cancelling and
//! halting go through REST.
//!
//! | client | server |
//! |---|---|
//! | `hello` within 5 s | `welcome` |
//! | `sub`, `unsub` | `subd`, `unsubd`, then `ev`, `gap`, `live`; or `err` |
//! | `pong` | `ping`, `halt`, `bye` |
//!
//! Each subscription gets its events in the log's order, each exactly once on a connection, counted
//! without holes; a `gap` names what is missing.

mod frames;
mod reader;
mod session;
mod subs;
mod subscribe;
mod writer;

use axum::{
    extract::{State, WebSocketUpgrade},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use haltline_client::{ApiError, Code};

use crate::{app::App, auth::Denied, problem::Problem};

/// The subprotocol.
pub(crate) const PROTOCOL: &str = "haltline.v1.json";
/// Subscriptions of one client: each event is compared with all of them.
pub(crate) const SUBS_MAX: usize = 128;
/// Bytes of a client's frame: a subscription with full filters.
pub(crate) const FRAME_MAX: usize = 64 * 1024;
/// The library reserves this per connection for ever; its default is 32 times as much.
const READ_BUFFER: usize = 4096;
/// Bytes gathered before the socket is written to.
const WRITE_BUFFER: usize = 16 * 1024;
/// Never reached: one message (at most a megabyte) is buffered at a time besides the above.
const WRITE_BUFFER_MAX: usize = 4 << 20;

/// Close codes: 4000 to 4499 mean "come again", from 4500 on it would be in vain.
pub(crate) mod close {
    /// The gateway stops.
    pub(crate) const SHUTDOWN: u16 = 4001;
    /// The client took nothing for 30 s.
    pub(crate) const SLOW: u16 = 4008;
    /// The log cannot be read.
    pub(crate) const UPSTREAM: u16 = 4011;
    /// No answer to a ping.
    pub(crate) const NO_PONG: u16 = 4012;
    /// Too many frames.
    pub(crate) const RATE: u16 = 4029;
    /// The token is missing, wrong or over.
    pub(crate) const BAD_TOKEN: u16 = 4501;
    /// No hello in time.
    pub(crate) const HELLO: u16 = 4508;
    /// A frame that is no JSON object with a known `t`.
    pub(crate) const BAD_FRAME: u16 = 4509;
    /// A frame above the limit.
    pub(crate) const TOO_BIG: u16 = 4513;
}

/// `GET /v1/ws`.
pub(crate) async fn upgrade(State(app): State<App>, headers: HeaderMap, ws: WebSocketUpgrade) -> Response {
    // Who is not known by a header may still say it in the first frame.
    let principal = match app.auth.by_headers(&headers).await {
        Ok(principal) => Some(principal),
        Err(Denied::Missing) => None,
        Err(Denied::Invalid(why)) => return Problem::new(StatusCode::UNAUTHORIZED, "Unauthenticated", &why).into_response(),
        Err(Denied::Unavailable(why)) => return Problem::from(ApiError::new(Code::Unavailable, why)).into_response(),
    };
    let Ok(permit) = app.room.clone().try_acquire_owned() else {
        let message =
            format!("as many clients as this gateway serves ({}) are connected; try another one or later", app.settings.clients_max);
        return Problem::from(ApiError::new(Code::Overloaded, message)).into_response();
    };
    let ws = ws
        .protocols([PROTOCOL])
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .max_message_size(FRAME_MAX)
        .max_frame_size(FRAME_MAX);
    // Counted from here on, so that the stop waits for it.
    let token = app.sessions.token();
    ws.on_upgrade(move |socket| async move {
        session::run(app, socket, principal).await;
        drop((permit, token));
    })
}
