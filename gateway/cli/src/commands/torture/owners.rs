//! Who has which shard, asked from the coordinators: once all is well, each has one owner.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt;
use haltline_common::Link;
use serde_json::Value;
use tokio::time::Instant;

/// Coordinators that see each other agree within a second or two.
const AGREE_WITHIN: Duration = Duration::from_secs(10);
/// A coordinator that lives answers within this.
const ANSWERS_WITHIN: Duration = Duration::from_millis(400);

/// Shards that several coordinators go on to believe to have, each in a sentence.
///
/// # Errors
/// When the server does not take the question.
pub async fn disputed(link: &Link) -> anyhow::Result<Vec<String>> {
    let until = Instant::now() + AGREE_WITHIN;
    loop {
        let disputed = ask(link).await?;
        if disputed.is_empty() || Instant::now() > until {
            return Ok(disputed);
        }
    }
}

async fn ask(link: &Link) -> anyhow::Result<Vec<String>> {
    let inbox = link.client.new_inbox();
    let mut answers = link.client.subscribe(inbox.clone()).await?;
    link.client.publish_with_reply(link.names.coordinator(), inbox, "".into()).await?;
    let until = Instant::now() + ANSWERS_WITHIN;
    let mut owners: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    while let Ok(Some(message)) = tokio::time::timeout_at(until, answers.next()).await {
        let told: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        for shard in told["shards"].as_array().into_iter().flatten().filter_map(Value::as_u64) {
            owners.entry(shard).or_default().push(told["coordinator_id"].as_str().unwrap_or_default().to_owned());
        }
    }
    owners.retain(|_, who| who.len() > 1);
    Ok(owners.into_iter().map(|(shard, who)| format!("shard {shard} is had by {}", who.join(" and "))).collect())
}
