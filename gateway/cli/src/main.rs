//! The `haltline` command.
fn main() {}
