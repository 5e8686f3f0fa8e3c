//! Tasks by node type: how many wait, and since when.

use futures_util::future::try_join_all;
use haltline_common::{
    Link, js,
    metrics::{self, SERIES_MAX},
    types::{Names, Timestamp},
};
use serde::Deserialize;
use serde_json::json;

use super::shards::first_from;

/// Pages of consumers read at most, 256 in each: the server's own way of listing.
const PAGES_MAX: usize = 8;

#[derive(Deserialize)]
struct Page {
    total: usize,
    #[serde(default)]
    consumers: Vec<Consumer>,
}

#[derive(Deserialize)]
struct Consumer {
    name: String,
    num_pending: u64,
    num_ack_pending: u64,
    num_redelivered: u64,
    delivered: Position,
    ack_floor: Position,
    ts: Timestamp,
}

#[derive(Deserialize)]
struct Position {
    stream_seq: u64,
}

/// Looks at all of them.
pub(super) async fn look(link: &Link) -> Result<(), String> {
    let mut consumers = consumers(link).await?;
    // Should there be more types than are told, then those with the most to do.
    consumers.sort_by_key(|(_, c)| std::cmp::Reverse(c.num_pending + c.num_ack_pending));
    consumers.truncate(SERIES_MAX);
    let ages = try_join_all(consumers.iter().map(|(kind, c)| async move {
        let subject = link.names.tasks_of_type(kind);
        // A task that is acknowledged is removed: what is stored first has waited longest.
        let unacked = async |from: u64, any: bool| match any {
            true => first_from(link, &link.names.tasks_stream(), &subject, from, c.ts).await.map(|age| age.unwrap_or(0.0)),
            false => Ok(0.0),
        };
        tokio::try_join!(
            unacked(c.ack_floor.stream_seq + 1, c.num_pending + c.num_ack_pending > 0),
            unacked(c.delivered.stream_seq + 1, c.num_pending > 0),
        )
    }))
    .await?;
    let of = |value: &dyn Fn(&Consumer) -> u64| -> Vec<(String, f64)> {
        consumers.iter().map(|(kind, c)| (kind.clone(), value(c) as f64)).collect()
    };
    let kinds = || consumers.iter().map(|(kind, _)| kind.clone());
    metrics::QUEUE_PENDING.replace(of(&|c| c.num_pending));
    metrics::QUEUE_ACK_PENDING.replace(of(&|c| c.num_ack_pending));
    metrics::QUEUE_REDELIVERED.replace(of(&|c| c.num_redelivered));
    metrics::QUEUE_UNACKED_AGE.replace(kinds().zip(ages.iter().map(|(unacked, _)| *unacked)));
    metrics::QUEUE_UNDELIVERED_AGE.replace(kinds().zip(ages.iter().map(|(_, undelivered)| *undelivered)));
    Ok(())
}

/// The consumers of tasks, each with its type.
async fn consumers(link: &Link) -> Result<Vec<(String, Consumer)>, String> {
    let subject = format!("CONSUMER.LIST.{}", link.names.tasks_stream());
    let (mut found, mut read) = (Vec::new(), 0);
    for _ in 0..PAGES_MAX {
        let page: Page = js::api(link, &subject, &json!({ "offset": read })).await.map_err(|e| format!("consumers of tasks: {e}"))?;
        read += page.consumers.len();
        let last = page.consumers.is_empty() || read >= page.total;
        found.extend(page.consumers.into_iter().filter_map(|c| Some((Names::type_of_task_consumer(&c.name)?.to_owned(), c))));
        if last {
            break;
        }
    }
    Ok(found)
}
