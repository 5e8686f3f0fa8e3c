//! Flags on their way: nats-server passes a write on to who listens to its subject in the same instant in which it is
//! handed to the bucket's stream, before the stream's consumers get it.
//!
//! That is a hint only: the write may be refused, and nothing says that none was missed. It never opens anything. But
//! where a fleet hears of a halt from a server that has to look for it in the stream for each worker in turn,
//! the last worker refuses milliseconds sooner.

use std::collections::HashMap;

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use haltline_types::control::{Flag, Scope};

use crate::{Link, kv, tail::Message};

/// Writes that came through the watch, remembered by key.
const KEYS_MAX: usize = 1024;

/// Listens to flags on their way.
#[derive(Default)]
pub(super) struct Passing {
    listening: Option<Subscriber>,
    /// What the watch had last of each key: what is heard later of the same write is no news.
    come: HashMap<String, Bytes>,
}

impl Passing {
    /// Begins to listen; without that the watch alone tells.
    pub(super) async fn begin(&mut self, link: &Link) {
        match link.client.subscribe(link.names.flags()).await {
            Ok(listening) => self.listening = Some(listening),
            Err(e) => tracing::warn!(error = %e, "flags on their way are not heard; the watch tells of them"),
        }
    }

    /// The watch has this one.
    pub(super) fn has_come(&mut self, m: &Message) {
        if self.listening.is_none() {
            return;
        }
        if self.come.len() >= KEYS_MAX {
            self.come.clear();
        }
        self.come.insert(m.subject.to_string(), m.payload.clone());
    }

    /// Whether the next one on its way may keep something from starting. Cancel safe.
    pub(super) async fn next(&mut self) -> bool {
        let Some(listening) = &mut self.listening else { return std::future::pending().await };
        let Some(m) = listening.next().await else {
            self.listening = None;
            return false;
        };
        if self.come.get(m.subject.as_str()) == Some(&m.payload) {
            return false;
        }
        // What cannot be read counts as a halt; so does a key that is deleted.
        let gone = m.headers.as_ref().is_some_and(kv::is_deletion);
        !Flag::read(&Scope::Global, Some(&m.payload[..]).filter(|_| !gone), 0, None, None).state.runs()
    }
}
