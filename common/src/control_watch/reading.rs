//! From the messages of the control bucket to flags that can be trusted.

use std::collections::HashMap;

use haltline_types::{
    Names,
    control::{Flag, Flags, INSTALL_KEY, Level, Marker, Scope},
};

use crate::{kv, tail::Message};

/// What is to be done about a bucket that is not the one it was.
const REMEDY: &str = "run `haltline ensure`, look at what runs, then resume";

/// What the control bucket says, message by message, in its order.
#[derive(Default)]
pub(super) struct Reading {
    prefix: String,
    flags: Flags,
    /// The last revision of each flag's key: what the next value must replace.
    last: HashMap<Scope, u64>,
    revision: u64,
    marker: Option<Marker>,
    /// Everything that was there at the start has been read.
    complete: bool,
    /// There is no bucket.
    missing: Option<String>,
}

impl Reading {
    pub(super) fn new(bucket: &str) -> Self {
        Self { prefix: Names::kv_subject(bucket, ""), ..Self::default() }
    }

    /// The bucket is not the one it was: what was read means nothing.
    pub(super) fn forget(&mut self) {
        *self = Self { prefix: std::mem::take(&mut self.prefix), ..Self::default() };
    }

    /// The key that a subject is of.
    pub(super) fn key<'s>(&self, subject: &'s str) -> &'s str {
        subject.strip_prefix(&self.prefix).unwrap_or(subject)
    }

    /// The next message; the flag that it changed.
    pub(super) fn take_in(&mut self, m: &Message) -> Option<Flag> {
        let gone = m.headers.as_ref().is_some_and(kv::is_deletion);
        let key = self.key(&m.subject);
        if key == INSTALL_KEY {
            self.marker = if gone { None } else { serde_json::from_slice(&m.payload).ok() };
            self.revision = m.seq;
            return None;
        }
        let Some(scope) = Scope::from_key(key) else {
            tracing::warn!(key, "the control bucket has a key that covers nothing; ignored");
            return None;
        };
        let before = self.last.insert(scope.clone(), m.seq);
        let value = if gone { None } else { Some(&m.payload[..]) };
        let flag = Flag::read(&scope, value, m.seq, Some(m.stored_at), before);
        self.revision = m.seq;
        self.flags.set(scope, flag.clone());
        Some(flag)
    }

    /// Everything that was stored before has been read.
    pub(super) fn complete(&mut self) {
        self.complete = true;
        self.missing = None;
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Flags that keep something from running.
    pub(super) fn raised(&self) -> impl Iterator<Item = &Flag> {
        self.flags.iter().map(|(_, flag)| flag).filter(|flag| !flag.state.runs())
    }

    /// There is no bucket: in words.
    pub(super) fn missing(&mut self, reason: String) {
        self.missing = Some(reason);
    }

    /// Whether there is a value for everything: a bucket without it has been emptied.
    pub(super) fn has_global(&self) -> bool {
        self.complete && self.missing.is_none() && self.flags.get(&Scope::Global).is_some()
    }

    /// The revision up to which it has been read.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// What counts, given when the stream was created; `None` while it is not known.
    pub(super) fn flags(&self, created: &str) -> Option<Flags> {
        if let Some(reason) = &self.missing {
            return Some(Flags::global(Flag::unreadable(format!("the control bucket is missing: {reason}"), 0, None)));
        }
        if !self.complete {
            return None;
        }
        let mut flags = self.flags.clone();
        let global = flags.get(&Scope::Global);
        let trouble = match (&self.marker, global) {
            (_, None) => Some(format!("the key halt.global is missing: {REMEDY}")),
            (None, _) => Some(format!("the control bucket has no install marker, so it was made again or emptied: {REMEDY}")),
            (Some(m), _) if m.stream_created != created => {
                Some(format!("the control bucket was made again: its install marker is of one created {}: {REMEDY}", m.stream_created))
            }
            _ => None,
        };
        if let Some(trouble) = trouble {
            // What is graver by itself says more.
            if global.is_none_or(|f| f.state < Level::Halt) {
                flags.set(Scope::Global, Flag::unreadable(trouble, self.revision, None));
            }
        }
        Some(flags)
    }
}
