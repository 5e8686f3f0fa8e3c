//! Definitions that this client has stored already, so that executing the same one again does not
//! validate and store it again.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hasher},
    sync::{Mutex, PoisonError},
};

use haltline_common::types::definition::Definition;

/// Definitions remembered; above it all are forgotten, which only costs storing them again.
const KNOWN_MAX: usize = 4096;

/// Hash of the content by workflow and version. Versions are immutable on the server, so what was
/// stored once stays true.
#[derive(Default)]
pub(crate) struct Known(Mutex<HashMap<(String, String), u64>>);

impl Known {
    /// Whether exactly this was stored.
    pub fn has(&self, definition: &Definition) -> bool {
        let Some(hash) = hash(definition) else { return false };
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Owned keys are looked up by value; the cost is two short copies.
        map.get(&(definition.id.clone(), definition.version.clone())) == Some(&hash)
    }

    /// Remembers that this was stored.
    pub fn remember(&self, definition: &Definition) {
        let Some(hash) = hash(definition) else { return };
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= KNOWN_MAX {
            map.clear();
        }
        map.insert((definition.id.clone(), definition.version.clone()), hash);
    }
}

/// Hashes the JSON form without building it.
fn hash(definition: &Definition) -> Option<u64> {
    struct Sink(DefaultHasher);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Sink(DefaultHasher::new());
    serde_json::to_writer(&mut sink, definition).ok()?;
    Some(sink.0.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_content_is_known() {
        let known = Known::default();
        let mut d =
            haltline_common::definitions::parse(r#"{"id":"w","version":"1","nodes":[{"id":"a","type":"static"}]}"#).expect("parses");
        assert!(!known.has(&d));
        known.remember(&d);
        assert!(known.has(&d));
        d.description = "other".into();
        assert!(!known.has(&d));
    }
}
