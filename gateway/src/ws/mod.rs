//! The WebSocket `/v1/ws`, subprotocol `haltline.v1.json`: it only reads. Submitting, cancelling and
//! halting go through REST.
//!
//! | client | server |
//! |---|---|
//! | `hello` within 5 s | `welcome` |
//! | `sub`, `unsub`, `auth` | `subd`, `unsubd`, `authed`, then `snap`, `ev`, `gap`, `live`, `mark`; or `err` |
//! | `pong` | `ping`, `halt`, `bye` |
//!
//! Each subscription gets its events in the log's order, each exactly once on a connection, counted
//! without holes; a `gap` names what is missing. `gateway/PROTOCOL.md` has all of it.

pub(crate) mod frames;
mod reader;
mod session;
mod writer;

use axum::{
    extract::{State, WebSocketUpgrade},
    response::{IntoResponse, Response},
};
use haltline_client::{ApiError, Code};
use haltline_common::types::feed::{FRAME_MAX, PROTOCOL};

use crate::{app::App, guard::Entrance, problem::Problem};

/// The library reserves this per connection for ever; its default is 128 times as much. Clients say little.
const READ_BUFFER: usize = 1024;
/// Bytes gathered before the socket is written to.
const WRITE_BUFFER: usize = 16 * 1024;
/// Never reached: one message (at most a megabyte) is buffered at a time besides the above.
const WRITE_BUFFER_MAX: usize = 4 << 20;
/// What waits for a client that does not read, at most: a run of the log, a frame and its copy.
pub(crate) const QUEUE_BYTES: usize = 2 << 20;

/// `GET /v1/ws`.
pub(crate) async fn upgrade(State(app): State<App>, mut entrance: Entrance, ws: WebSocketUpgrade) -> Response {
    // Who is not known by a header may still say it in the first frame.
    let principal = match entrance.known(&app, "connect").await {
        Ok(principal) => principal,
        Err(problem) => return problem.into_response(),
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
        session::run(app, socket, entrance, principal).await;
        drop((permit, token));
    })
}
