//! The server's belt under a shutdown: once it is confirmed that nothing more starts and nothing is in flight, the
//! consumers that hand out tasks in its scope are paused, so that not even a worker that obeys no flag is given any.
//!
//! Not earlier: what has to end by a worker's refusal ends first, and whoever gets the task of a dead worker asks what
//! became of its effects. Not under a `halt`: cancels and what is neutral still run. A pause is for a minute and
//! renewed: where nobody keeps it up it ends, and the guard of each worker is what counts in any case.

use std::{collections::BTreeSet, time::Duration};

use haltline_common::{
    Link, clock,
    js::{self, ApiFailure},
    types::{Names, Timestamp, control::Scope},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// For how long a consumer is paused at a time.
const PAUSE_MS: i64 = 60_000;
/// How often pauses are renewed, and looked for that nobody wants any more.
pub const EVERY: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Page {
    total: usize,
    #[serde(default)]
    consumers: Option<Vec<Consumer>>,
}

#[derive(Deserialize)]
struct Consumer {
    name: String,
    #[serde(default)]
    paused: bool,
}

/// Whether the consumers of a scope can be paused: only of what has consumers of its own.
pub fn has(scope: &Scope) -> bool {
    matches!(scope, Scope::Global | Scope::NodeType(_))
}

/// Pauses the consumers of tasks in `scopes`, and lets all others go on.
///
/// # Errors
/// When the server does not answer: to be tried again.
pub async fn fasten(link: &Link, scopes: &BTreeSet<Scope>) -> Result<(), ApiFailure> {
    let stream = link.names.tasks_stream();
    let (mut seen, mut changed) = (0, 0);
    loop {
        let page: Page = js::api(link, &format!("CONSUMER.LIST.{stream}"), &json!({ "offset": seen })).await?;
        let consumers = page.consumers.unwrap_or_default();
        seen += consumers.len();
        let last = consumers.is_empty() || seen >= page.total;
        for consumer in consumers {
            let Some(kind) = Names::type_of_task_consumer(&consumer.name) else { continue };
            let wanted = scopes.contains(&Scope::Global) || scopes.contains(&Scope::NodeType(kind.to_owned()));
            let until = match (wanted, consumer.paused) {
                (true, _) => json!({ "pause_until": Timestamp(clock::now().0.saturating_add(PAUSE_MS)) }),
                // No time: it goes on.
                (false, true) => json!({}),
                (false, false) => continue,
            };
            js::api::<Value>(link, &format!("CONSUMER.PAUSE.{stream}.{}", consumer.name), &until).await?;
            changed += usize::from(wanted != consumer.paused);
        }
        if last {
            break;
        }
    }
    if changed > 0 {
        let scopes: Vec<String> = scopes.iter().map(Scope::to_string).collect();
        tracing::info!(consumers = changed, under_shutdown = ?scopes, "consumers of tasks paused, or let go on");
    }
    Ok(())
}
