//! Definitions that this client has stored already, so that executing the same one again does not
//! validate and store it again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use haltline_common::types::{SmolStr, definition::Definition};

/// Definitions remembered; above it all are forgotten, which only costs storing them again.
const KNOWN_MAX: usize = 4096;

/// By workflow and version. Versions are immutable on the server, so what was stored once stays true.
#[derive(Default)]
pub(crate) struct Known(Mutex<HashMap<(SmolStr, SmolStr), Definition>>);

impl Known {
    /// Whether exactly this was stored.
    pub fn has(&self, definition: &Definition) -> bool {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(&key(definition)) == Some(definition)
    }

    /// Remembers that this was stored.
    pub fn remember(&self, definition: &Definition) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= KNOWN_MAX {
            map.clear();
        }
        map.insert(key(definition), definition.clone());
    }
}

fn key(definition: &Definition) -> (SmolStr, SmolStr) {
    (definition.id.clone(), definition.version.clone())
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
