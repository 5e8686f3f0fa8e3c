//! What arrived at the market, counted from its ledger.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// Arrivals of one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// How often it was filled.
    pub filled: usize,
    /// How often it arrived in all.
    pub all: usize,
}

/// Arrivals of the order of `node` of an execution.
///
/// # Errors
/// When the ledger cannot be read.
pub fn arrivals(ledger: &Path, execution_id: &str, node: &str) -> anyhow::Result<Arrivals> {
    let key = format!("{execution_id}/{node}");
    let text = std::fs::read_to_string(ledger).context("the market's ledger")?;
    let mut found = Arrivals::default();
    for line in text.lines() {
        let arrival: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if arrival["key"] == key.as_str() {
            found.all += 1;
            found.filled += usize::from(arrival["outcome"] == "accepted");
        }
    }
    Ok(found)
}
