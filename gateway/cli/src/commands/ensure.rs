//! `haltline ensure`.

use haltline_common::topology::{self, Change};
use serde_json::json;

use super::Context;
use crate::output;

/// Create or update streams, buckets and consumers on the nats-server
#[derive(Debug, clap::Args)]
#[command(after_help = "Idempotent. A coordinator does the same when it starts.")]
pub struct Args {}

/// Does it.
///
/// # Errors
/// When nats-server is out of reach or cannot be used.
pub async fn run(_: Args, context: Context) -> anyhow::Result<u8> {
    let link = context.link("command line").await?;
    let changes = topology::ensure(&link, &context.settings.storage).await?;
    if context.json {
        let list: Vec<_> = changes
            .iter()
            .map(|change| match change {
                Change::Created(name) => json!({ "created": name }),
                Change::Updated(name, fields) => json!({ "updated": name, "fields": fields }),
            })
            .collect();
        output::json(&json!({ "changes": list }));
        return Ok(0);
    }
    for change in &changes {
        match change {
            Change::Created(name) => output::line(format_args!("created {name}")),
            Change::Updated(name, fields) => output::line(format_args!("updated {name}: {}", fields.join(", "))),
        }
    }
    if changes.is_empty() {
        output::line("everything is as it should be");
    }
    Ok(0)
}
