//! `haltline schema`.

use haltline_common::types::definition::Definition;

use crate::output;

/// Print the JSON Schema of workflow definitions, for editors
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints it.
pub fn run(_: Args) -> anyhow::Result<u8> {
    output::pretty(&Definition::json_schema());
    Ok(0)
}
