//! What gateways send.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Cursor;
use crate::Timestamp;

/// A gateway's frame. Clients pass over kinds and fields that they do not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum ServerFrame {
    /// Answers `hello`.
    Welcome(Box<Welcome>),
    /// Answers `sub`: it began.
    Subd(Subd),
    /// Answers `unsub`.
    Unsubd(Unsubd),
    /// Answers `auth`.
    Authed(Authed),
    /// The state of what a subscription matches.
    Snap(Snap),
    /// An event.
    Ev(Ev),
    /// A subscription has everything that was there; from here on events come as they happen.
    Live(Caught),
    /// Everything up to here was looked at for all subscriptions.
    Mark(Mark),
    /// A subscription will not get what lies between.
    Gap(Gap),
    /// A control flag as it is stored. Goes to everyone, never left out.
    Halt(Halt),
    /// Something was refused; the connection goes on.
    Err(Err),
    /// Wants a `pong`.
    Ping(Ping),
    /// The connection ends.
    Bye(Bye),
}

/// See [`ServerFrame::Welcome`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Welcome {
    /// Version of the protocol.
    pub v: u32,
    /// This connection, in the gateway's log.
    pub conn: String,
    /// This gateway.
    pub gw: String,
    /// The end of the log.
    pub head: Cursor,
    /// Before the oldest message that the log still has.
    pub oldest: Cursor,
    /// A quiet connection is tested this often, in milliseconds.
    pub ping_ms: u64,
    /// A `pong`, or anything else, must come within this, in milliseconds.
    pub pong_ms: u64,
    /// Who the gateway takes the client for.
    pub name: String,
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// When the token ends; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What a connection may ask for.
    pub limits: LimitsTold,
    /// The flag over everything.
    pub halt: HaltState,
    /// Flags over parts that are not normal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scoped: Vec<HaltState>,
}

/// See [`Welcome::limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitsTold {
    /// Subscriptions.
    pub subs: usize,
    /// Bytes of a client's frame.
    pub msg: usize,
    /// Events of `from.last`.
    pub last: usize,
    /// Items of a snapshot.
    pub snapshot: usize,
    /// Bytes that wait for a slow client in the gateway at most.
    pub queue_bytes: usize,
}

/// See [`ServerFrame::Subd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Subd {
    /// Of the `sub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rid: Option<u64>,
    /// The subscription.
    pub id: String,
    /// Whether a place before was asked for.
    pub was_recovering: bool,
    /// Whether that place is there, with all that follows as far as is known; if not, a `gap` follows.
    pub recovered: bool,
    /// It begins behind this place,
    pub from: Cursor,
    /// and is replayed up to this one.
    pub until: Cursor,
}

/// See [`ServerFrame::Unsubd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Unsubd {
    /// Of the `unsub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rid: Option<u64>,
    /// The subscription.
    pub id: String,
}

/// See [`ServerFrame::Authed`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Authed {
    /// Of the `auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rid: Option<u64>,
    /// The role now.
    pub role: String,
    /// When the token ends; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// See [`ServerFrame::Snap`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Snap {
    /// The subscription.
    pub id: String,
    /// The place it holds for: events behind it follow.
    pub at: Cursor,
    /// Counts the parts, from 1.
    pub part: u32,
    /// Whether this is the last part.
    pub last: bool,
    /// On the last part: there are more executions than a snapshot has; these are the newest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Executions: the fields of a listing, and with a filter that names executions their `nodes`.
    pub items: Vec<Value>,
}

/// See [`ServerFrame::Ev`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ev {
    /// The subscriptions that want it, each with how many events it was given: without holes.
    pub s: BTreeMap<String, u64>,
    /// Its place.
    pub c: Cursor,
    /// The event as it is stored.
    pub d: Value,
}

/// See [`ServerFrame::Live`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Caught {
    /// The subscription.
    pub id: String,
    /// The place it has reached.
    pub c: Cursor,
}

/// See [`ServerFrame::Mark`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Mark {
    /// The place; come back with it.
    pub c: Cursor,
}

/// Why something is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It was too old or the stream too full: the stream begins behind it.
    Retention,
    /// It was removed from the middle of the stream.
    Purged,
    /// The stream is another one than before: recreated, restored, or its end was lost.
    Epoch,
}

/// See [`ServerFrame::Gap`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// The subscription.
    pub id: String,
    /// The last place before what is missing.
    pub after: Cursor,
    /// The first sequence behind it.
    pub next: Cursor,
    /// Why.
    pub reason: Reason,
    /// How many messages of the log are missing, matching or not; null if that cannot be known.
    pub lost: Option<u64>,
}

/// A control flag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HaltState {
    /// What it covers: `global`, or the rest of its key.
    pub scope: String,
    /// `normal`, `alert`, `hold`, `halt`, `shutdown`; `unknown` while it was not read.
    pub state: String,
    /// Its revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rev: Option<u64>,
    /// Who set it.
    #[serde(default)]
    pub by: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// When.
    #[serde(default)]
    pub ts: Option<Timestamp>,
    /// Whether that is certain now: false while the gateway does not hear the control bucket.
    pub sure: bool,
    /// Which workers have confirmed it: for levels that stop something, from when it was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<Confirmed>,
}

/// See [`HaltState::workers`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Confirmed {
    /// Workers that have confirmed.
    pub confirmed: usize,
    /// Workers that count.
    pub total: usize,
    /// Nothing that it covers can start any more, and nothing of it is in flight.
    pub complete: bool,
    /// Workers that have not confirmed and may still act.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
    /// Effects that it covers and that are in flight, or may be.
    pub open: usize,
}

/// See [`ServerFrame::Halt`].
pub type Halt = HaltState;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A field of a frame is missing or wrong.
    BadFrame,
    /// `t` is not known.
    UnknownFrame,
    /// The id of a subscription is not written as it may be.
    BadId,
    /// A filter is wrong.
    BadFilter,
    /// `from` is wrong.
    BadFrom,
    /// The subscription is there already.
    DuplicateSub,
    /// There is no such subscription.
    UnknownSub,
    /// There are too many.
    TooManySubs,
    /// The start is gone, and `if_gap` is `reject`.
    Gap,
    /// The token is not good.
    BadToken,
    /// The token does not allow it.
    Forbidden,
    /// The log cannot be read now.
    Unavailable,
}

/// See [`ServerFrame::Err`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Err {
    /// Of the frame that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rid: Option<u64>,
    /// What is wrong.
    pub code: Code,
    /// The same for people.
    pub msg: String,
    /// Whether the same may work later.
    pub retry: bool,
    /// The gap, with the code `gap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

/// See [`ServerFrame::Ping`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ping {
    /// The end of the log.
    pub head: Cursor,
    /// Whether the gateway hears the log.
    pub upstream: bool,
}

/// See [`ServerFrame::Bye`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bye {
    /// The close code that follows.
    pub code: u16,
    /// Why.
    pub reason: String,
    /// Whether to come again.
    pub reconnect: bool,
    /// When, in milliseconds from now; spread, so that not everyone comes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
}
