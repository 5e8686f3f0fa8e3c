//! What the system allows this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many open files as the system allows this process to have: each connection is one. Where it
/// allows few, connections beyond them wait.
pub fn raise_files() {
    let now = getrlimit(Resource::Nofile);
    if now.current == now.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        Ok(()) => tracing::debug!(from = now.current, to = now.maximum, "open files"),
        Err(error) => tracing::warn!(%error, files = now.current, "cannot raise the limit of open files"),
    }
}
