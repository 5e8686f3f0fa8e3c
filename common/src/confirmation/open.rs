//! What a worker that cannot be asked had in flight: its last lease names some, the log the rest.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use haltline_types::{
    Effect, SmolStr, Timestamp,
    control::{Lease, OpenEffect},
    error::ApiError,
    event::{Event, EventType},
    json,
};

use crate::{
    Link, history, kv,
    tail::{self, Item, Message, Start, Tail},
};

/// Intents of a lease are stored this long after its end at the latest, in milliseconds of the server's clock, which in a
/// cluster is several servers'.
const INTENTS_WITHIN_MS: u64 = 10_000;
/// Executions whose events are read at once.
const READS_MAX: usize = 8;
/// How long reading the log may take.
const READ_WITHIN: Duration = Duration::from_secs(20);
/// Where nothing is heard for so long it is read anew: what was asked of a server that is not there any more is waited for for
/// seconds, and the next question finds the new one.
const QUIET: Duration = Duration::from_secs(1);
/// Until the first of it is heard, somewhat longer.
const BEGUN_WITHIN: Duration = Duration::from_millis(1500);

/// A life of a worker, to be looked for in the log.
pub(super) struct Ask {
    /// What it wrote last.
    pub lease: Lease,
    /// When the server stored that.
    pub stored_at: Timestamp,
    /// Whether it may have intended something after it.
    pub later: bool,
    /// What was found to be open before: no more can have become so.
    pub was: Option<Vec<OpenEffect>>,
}

/// What is open of what the lease of each of them names and, where it may have intended more, of that: in one reading of the log.
pub(super) async fn of(link: &Link, asks: &[Ask]) -> Result<Vec<Vec<OpenEffect>>, ApiError> {
    let mut open: Vec<Vec<OpenEffect>> = asks.iter().map(|a| a.was.clone().unwrap_or_else(|| a.lease.open.clone())).collect();
    let of_ask = |(i, ask): (usize, &Ask)| {
        // What is intended after the lease's end is not performed: the log need not be read to its head.
        let until = ask.stored_at.0.saturating_add_unsigned(ask.lease.lease_ms).saturating_add_unsigned(INTENTS_WITHIN_MS);
        let window = || Window { ask: i, worker_id: ask.lease.worker_id.clone(), after: ask.lease.log, until: Timestamp(until) };
        (ask.later && ask.was.is_none()).then(window)
    };
    let windows: Vec<Window> = asks.iter().enumerate().filter_map(of_ask).collect();
    for (i, effect) in intended_in(link, &windows).await? {
        open[i].push(effect);
    }
    still(link, open).await
}

/// Those of `open` that are open still.
async fn still(link: &Link, open: Vec<Vec<OpenEffect>>) -> Result<Vec<Vec<OpenEffect>>, ApiError> {
    let mut left = vec![Vec::new(); open.len()];
    let mut by_execution: BTreeMap<SmolStr, Vec<(usize, OpenEffect)>> = BTreeMap::new();
    for (i, effect) in open.into_iter().enumerate().flat_map(|(i, all)| all.into_iter().map(move |effect| (i, effect))) {
        let all = by_execution.entry(effect.execution_id.clone()).or_default();
        if all.iter().all(|(other, o)| *other != i || o.node_id != effect.node_id) {
            all.push((i, effect));
        }
    }
    let read = async |(execution_id, effects): (SmolStr, Vec<(usize, OpenEffect)>)| {
        let log = soon(|| history::read(link, &execution_id)).await.map_err(kv::unavailable)?;
        let events: Vec<&Event> = log.iter().filter_map(|(_, entry)| entry.event()).collect();
        Ok::<_, ApiError>(effects.into_iter().filter(|(_, o)| is_open(&events, &o.node_id)).collect::<Vec<_>>())
    };
    let all: Vec<Vec<(usize, OpenEffect)>> = stream::iter(by_execution).map(read).buffered(READS_MAX).try_collect().await?;
    for (i, effect) in all.into_iter().flatten() {
        left[i].push(effect);
    }
    Ok(left)
}

/// What `read` gives first, at its first attempt or, where that takes long, at one beside it.
async fn soon<T, E, F: Future<Output = Result<T, E>>>(read: impl Fn() -> F) -> Result<T, E> {
    let beside = async {
        tokio::time::sleep(QUIET).await;
        loop {
            match tokio::time::timeout(QUIET, read()).await {
                Ok(Ok(found)) => return found,
                Ok(Err(_)) => tokio::time::sleep(QUIET / 4).await,
                Err(_) => {}
            }
        }
    };
    tokio::select! {
        first = read() => first,
        found = beside => Ok(found),
    }
}

/// Whether an effect of a node was intended and neither settled nor overtaken by the node's result or the
/// execution's end. One that is on record as unknown is open until someone has said what became of it.
fn is_open(events: &[&Event], node_id: &str) -> bool {
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

/// Where something that a worker intended is looked for: after a position of the log, and not after a time.
struct Window {
    /// Whose it is.
    ask: usize,
    worker_id: String,
    after: u64,
    until: Timestamp,
}

/// Effects that were intended there; without those that are seen to be settled on the way, which are most.
async fn intended_in(link: &Link, windows: &[Window]) -> Result<Vec<(usize, OpenEffect)>, ApiError> {
    let after = windows.iter().map(|w| w.after).min();
    let (Some(after), Some(until)) = (after, windows.iter().map(|w| w.until).max()) else { return Ok(Vec::new()) };
    let mut tail = Tail::start(
        link,
        tail::Options {
            stream: link.names.events_stream(),
            filter: link.names.notes_all(),
            start: Start::Seq(after + 1),
            heartbeat: Duration::from_secs(1),
            buffer: 4096,
            reader: "intents".into(),
            headers_only: false,
        },
    );
    let mut found = Found::new();
    let reading = async {
        let mut patience = BEGUN_WITHIN;
        loop {
            let next = tokio::time::timeout(patience, tail.next()).await.map_err(|_| kv::unavailable("the log says nothing"))?;
            patience = QUIET;
            match next {
                Some(Item::Message(m)) if m.stored_at > until => return Ok(()),
                Some(Item::Message(m)) => take_in(&mut found, windows, &m),
                Some(Item::CaughtUp { .. }) | None => return Ok(()),
                Some(Item::Reset { .. }) => return Err(kv::unavailable("the log was made again")),
                Some(Item::Lost { reason, .. }) => return Err(kv::unavailable(reason)),
            }
        }
    };
    tokio::time::timeout(READ_WITHIN, reading).await.map_err(|_| kv::unavailable("the log is long"))??;
    Ok(found.into_values().flat_map(|(asks, effect)| asks.into_iter().map(move |ask| (ask, effect.clone()))).collect())
}

/// Effects and whose they may be, by the id of their intent.
type Found = HashMap<String, (Vec<usize>, OpenEffect)>;

/// What a message of the log says of intents and their outcomes.
fn take_in(found: &mut Found, windows: &[Window], m: &Message) {
    let of_effects = json::lines(&m.payload).filter(|line| is_of_effects(line));
    for e in of_effects.filter_map(|line| serde_json::from_slice::<Event>(line).ok()) {
        match e.kind {
            EventType::EffectIntended => {
                let is_in = |w: &&Window| e.worker_id.as_deref() == Some(w.worker_id.as_str()) && m.seq > w.after && m.stored_at <= w.until;
                let asks: Vec<usize> = windows.iter().filter(is_in).map(|w| w.ask).collect();
                if !asks.is_empty() {
                    let known = found.entry(e.id.clone()).or_insert_with(|| (Vec::new(), of_intent(e)));
                    known.0.extend(asks);
                }
            }
            EventType::EffectSettled => _ = e.intent.and_then(|intent| found.remove(&intent)),
            _ => {}
        }
    }
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
        venue: "".into(),
        node_type: "".into(),
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
        let c = Correlation { execution_id: "x".into(), workflow_id: "w".into(), bot_id: "".into(), strategy_id: "".into() };
        let event = |kind, id: &str, node: Option<&str>| {
            let mut e = Event::new(kind, id.into(), &c, Timestamp(0));
            e.node_id = node.map(SmolStr::from);
            e
        };
        let intended = event(EventType::EffectIntended, "i", Some("buy"));
        let mut settled = event(EventType::EffectSettled, "s", Some("buy"));
        settled.intent = Some("i".into());
        assert!(!is_open(&[], "buy"));
        assert!(is_open(&[&intended], "buy"));
        assert!(!is_open(&[&intended], "sell"));
        assert!(!is_open(&[&intended, &settled], "buy"));
        let unknown = event(EventType::NodeUnknown, "u", Some("buy"));
        assert!(is_open(&[&intended, &unknown], "buy"));
        let done = event(EventType::NodeCompleted, "r", Some("buy"));
        assert!(!is_open(&[&intended, &done], "buy"));
        assert!(!is_open(&[&intended, &event(EventType::ExecutionCancelled, "e", None)], "buy"));
    }
}
