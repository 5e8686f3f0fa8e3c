//! Whether coordinators answer.

use std::time::Duration;

use haltline_common::Link;

/// A healthy coordinator answers within milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Which shards have no coordinator that answers. Asks with an empty submission, which every
/// coordinator refuses at once and without effect.
pub async fn silent_shards(link: &Link) -> Vec<u32> {
    let mut asked = tokio::task::JoinSet::new();
    for shard in 0..link.names.shards() {
        let link = link.clone();
        asked.spawn(async move {
            let ask = link.client.request(link.names.submit(shard), "{}".into());
            let answered = tokio::time::timeout(ANSWER_WITHIN, ask).await.is_ok_and(|r| r.is_ok());
            (!answered).then_some(shard)
        });
    }
    let mut silent: Vec<u32> = asked.join_all().await.into_iter().flatten().collect();
    silent.sort_unstable();
    silent
}
