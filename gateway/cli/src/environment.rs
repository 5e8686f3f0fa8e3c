//! The environment variables that are no flags.
#![allow(clippy::disallowed_methods, reason = "the command line's one place that reads the environment")]

/// A variable's value, if it is set and not empty.
fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// The fault point to arm, for tests: see `haltline_common::fault`.
pub fn fault() -> Option<String> {
    var("HALTLINE_FAULT")
}

/// The bug to make, for tests: see `haltline_common::planted`.
pub fn planted() -> Option<String> {
    var("HALTLINE_PLANTED")
}

/// Who runs this command.
pub fn user() -> Option<String> {
    var("USER")
}
