//! The event protocol `haltline.v1.json`: frames of clients and servers, filters, cursors, limits and
//! close codes. `gateway/PROTOCOL.md` tells it in words; its JSON Schemas are made from these types.

mod client;
mod cursor;
mod filter;
#[cfg(test)]
mod fuzz;
mod server;

pub use client::{Auth, ClientFrame, ClientInfo, From, Hello, IfGap, Mode, Sub, SubError, Unsub};
pub use cursor::{BadCursor, Cursor, Epoch, Tag};
pub use filter::{Filter, Match, Prefix, Subject};
pub use server::{
    Authed, Bye, Caught, Code, Confirmed, Err, Ev, Gap, Halt, HaltState, LimitsTold, Mark, Ping, Reason, ServerFrame, Snap, Subd, Unsubd,
    Welcome,
};

/// The WebSocket subprotocol.
pub const PROTOCOL: &str = "haltline.v1.json";
/// Its version, in `hello` and `welcome`.
pub const VERSION: u32 = 1;
/// Subscriptions of one connection: each event is compared with all of them.
pub const SUBS_MAX: usize = 128;
/// Bytes of a client's frame: a subscription with full filters.
pub const FRAME_MAX: usize = 64 * 1024;
/// Events that `from.last` can ask for.
pub const LAST_MAX: usize = 1000;
/// The event that concerns everyone.
pub const CONTROL_EVENT: &str = "emergency_state_changed";

/// Close codes: 4000 to 4499 mean "come again", from 4500 on it would be in vain.
pub mod close {
    /// The gateway stops.
    pub const SHUTDOWN: u16 = 4001;
    /// The client took nothing for 30 s.
    pub const SLOW: u16 = 4008;
    /// The log cannot be read.
    pub const UPSTREAM: u16 = 4011;
    /// No answer to a ping.
    pub const NO_PONG: u16 = 4012;
    /// Too many frames.
    pub const RATE: u16 = 4029;
    /// The token is missing, wrong or over.
    pub const BAD_TOKEN: u16 = 4501;
    /// What was asked for is not allowed to this token.
    pub const FORBIDDEN: u16 = 4503;
    /// No hello in time.
    pub const HELLO: u16 = 4508;
    /// A frame that is no JSON object with `t`, or a first one that is no `hello` of this version.
    pub const BAD_FRAME: u16 = 4509;
    /// A frame above the limit.
    pub const TOO_BIG: u16 = 4513;

    /// Whether a client that was closed with this code should come again.
    pub const fn again(code: u16) -> bool {
        code < 4500
    }
}
