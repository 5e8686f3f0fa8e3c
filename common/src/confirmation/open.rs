//! What a worker that cannot be asked had in flight: its last lease names some, the log the rest.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use haltline_types::{
    Effect, Timestamp,
    control::{Lease, OpenEffect},
    error::ApiError,
    event::{Event, EventType},
    json,
};

use crate::{
    Link, history, kv,
    tail::{self, Item, Start, Tail},
};

/// Intents of a lease are stored this long after its end at the latest, in milliseconds of the server's clock, which in a
/// cluster is several servers'.
const INTENTS_WITHIN_MS: u64 = 10_000;
/// Executions whose events are read at once.
const READS_MAX: usize = 8;
/// How long reading the log may take.
const READ_WITHIN: Duration = Duration::from_secs(20);
/// Where that takes longer than this it is read a second time beside, and again each time that took so long: what was asked of
/// a server that is not there any more is waited for for seconds, and the next question finds the new one.
const BESIDE: Duration = Duration::from_secs(1);

/// What `read` gives first, at its first attempt or one beside it.
pub(super) async fn soon<F>(read: impl Fn() -> F) -> Result<Vec<OpenEffect>, ApiError>
where
    F: Future<Output = Result<Vec<OpenEffect>, ApiError>>,
{
    let beside = async {
        tokio::time::sleep(BESIDE).await;
        loop {
            match tokio::time::timeout(BESIDE, read()).await {
                Ok(Ok(open)) => return open,
                Ok(Err(_)) => tokio::time::sleep(BESIDE / 4).await,
                Err(_) => {}
            }
        }
    };
    tokio::select! {
        first = read() => first,
        open = beside => Ok(open),
    }
}

/// What is open of what `lease`, stored at that time, names and, if `later`, of what its worker intended after it.
pub(super) async fn of(link: &Link, lease: &Lease, stored_at: Timestamp, later: bool) -> Result<Vec<OpenEffect>, ApiError> {
    let mut open = lease.open.clone();
    if later {
        // What is intended after the lease's end is not performed: the log need not be read to its head.
        let until = Timestamp(stored_at.0.saturating_add_unsigned(lease.lease_ms).saturating_add_unsigned(INTENTS_WITHIN_MS));
        open.extend(intended_after(link, &lease.worker_id, lease.log, until).await?);
    }
    still(link, open).await
}

/// Those of `open` that are open still.
pub(super) async fn still(link: &Link, open: Vec<OpenEffect>) -> Result<Vec<OpenEffect>, ApiError> {
    let mut by_execution: BTreeMap<String, Vec<OpenEffect>> = BTreeMap::new();
    for effect in open {
        let all = by_execution.entry(effect.execution_id.clone()).or_default();
        if all.iter().all(|o| o.node_id != effect.node_id) {
            all.push(effect);
        }
    }
    let read = async |(execution_id, effects): (String, Vec<OpenEffect>)| {
        let events: Vec<Event> = history::read(link, &execution_id)
            .await
            .map_err(kv::unavailable)?
            .into_iter()
            .filter_map(|(_, entry)| match entry {
                history::Entry::Event(e) => Some(*e),
                history::Entry::Command(_) => None,
            })
            .collect();
        Ok(effects.into_iter().filter(|o| is_open(&events, &o.node_id)).collect::<Vec<_>>())
    };
    let all: Vec<Vec<OpenEffect>> = stream::iter(by_execution).map(read).buffered(READS_MAX).try_collect().await?;
    Ok(all.into_iter().flatten().collect())
}

/// Whether an effect of a node was intended and neither settled nor overtaken by the node's result or the
/// execution's end. One that is on record as unknown is open until someone has said what became of it.
fn is_open(events: &[Event], node_id: &str) -> bool {
    let mut open: Vec<&str> = Vec::new();
    for e in events {
        let of_node = e.node_id.as_deref() == Some(node_id);
        match e.kind {
            EventType::EffectIntended if of_node => open.push(&e.id),
            EventType::EffectSettled => open.retain(|id| Some(*id) != e.intent.as_deref()),
            EventType::NodeCompleted | EventType::NodeFailed if of_node => open.clear(),
            EventType::NodeRefused if of_node => open.retain(|id| e.unsettled.iter().any(|u| u == id)),
            // What nobody knows of at the end stays on record there; it is not in flight.
            kind if kind.is_terminal() => open.clear(),
            _ => {}
        }
    }
    !open.is_empty()
}

/// Effects that a worker intended after a position of the log, and not after a time; without those that are seen to be
/// settled on the way, which are most.
async fn intended_after(link: &Link, worker_id: &str, log: u64, until: Timestamp) -> Result<Vec<OpenEffect>, ApiError> {
    let mut tail = Tail::start(
        link,
        tail::Options {
            stream: link.names.events_stream(),
            filter: link.names.notes_all(),
            start: Start::Seq(log + 1),
            heartbeat: Duration::from_secs(1),
            buffer: 4096,
            reader: "intents".into(),
            headers_only: false,
        },
    );
    let mut found: HashMap<String, OpenEffect> = HashMap::new();
    let reading = async {
        while let Some(item) = tail.next().await {
            match item {
                Item::Message(m) if m.stored_at > until => return Ok(()),
                Item::Message(m) => {
                    for e in json::lines(&m.payload)
                        .filter(|line| is_of_effects(line))
                        .filter_map(|line| serde_json::from_slice::<Event>(line).ok())
                    {
                        match e.kind {
                            EventType::EffectIntended if e.worker_id.as_deref() == Some(worker_id) => {
                                found.insert(e.id.clone(), of_intent(e));
                            }
                            EventType::EffectSettled => _ = e.intent.and_then(|intent| found.remove(&intent)),
                            _ => {}
                        }
                    }
                }
                Item::CaughtUp { .. } => return Ok(()),
                Item::Reset { .. } => return Err(kv::unavailable("the log was made again")),
                Item::Lost { reason, .. } => return Err(kv::unavailable(reason)),
            }
        }
        Ok(())
    };
    tokio::time::timeout(READ_WITHIN, reading).await.map_err(|_| kv::unavailable("the log is long"))??;
    Ok(found.into_values().collect())
}

/// Whether a line of the log may be an intent or its outcome: most of the log is other things, and is not parsed.
fn is_of_effects(line: &[u8]) -> bool {
    const WORD: &[u8] = b"\"effect_";
    line.windows(WORD.len()).any(|w| w == WORD)
}

/// What an intent in the log tells; of type and venue it says nothing.
fn of_intent(e: Event) -> OpenEffect {
    OpenEffect {
        node_id: e.node_id.unwrap_or_default(),
        key: e.key.unwrap_or_default(),
        since: e.timestamp,
        execution_id: e.execution_id,
        workflow_id: e.workflow_id,
        bot_id: e.bot_id,
        strategy_id: e.strategy_id,
        venue: String::new(),
        node_type: String::new(),
        effect: Effect::OpensRisk,
        allowed_while_halted: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use haltline_types::event::Correlation;

    #[test]
    fn an_effect_is_open_from_its_intent_to_what_settles_it() {
        let c = Correlation { execution_id: "x".into(), workflow_id: "w".into(), bot_id: String::new(), strategy_id: String::new() };
        let event = |kind, id: &str, node: Option<&str>| {
            let mut e = Event::new(kind, id.into(), &c, Timestamp(0));
            e.node_id = node.map(str::to_owned);
            e
        };
        let intended = event(EventType::EffectIntended, "i", Some("buy"));
        let mut settled = event(EventType::EffectSettled, "s", Some("buy"));
        settled.intent = Some("i".into());
        assert!(!is_open(&[], "buy"));
        assert!(is_open(std::slice::from_ref(&intended), "buy"));
        assert!(!is_open(std::slice::from_ref(&intended), "sell"));
        assert!(!is_open(&[intended.clone(), settled], "buy"));
        let unknown = event(EventType::NodeUnknown, "u", Some("buy"));
        assert!(is_open(&[intended.clone(), unknown], "buy"));
        let done = event(EventType::NodeCompleted, "r", Some("buy"));
        assert!(!is_open(&[intended.clone(), done], "buy"));
        assert!(!is_open(&[intended, event(EventType::ExecutionCancelled, "e", None)], "buy"));
    }
}
