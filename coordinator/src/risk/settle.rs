//! Reservations that nobody settled: their worker died in between. Once the execution has ended, the log says what
//! came of them.

use haltline_common::{
    Link, history, kv, risk,
    types::{
        error::{ApiError, Code},
        event::{Event, EventType},
        risk::{Fill, Noted},
    },
};
use haltline_risk::Open;

/// A reservation younger than this is most likely being worked on.
const AFTER_MS: u64 = 10_000;

/// What came of an action.
enum Came {
    /// It happened, and came to this if it was an order.
    Done(Option<Fill>),
    /// It did not happen.
    NotDone,
    /// Nobody knows, or it is not over.
    Open,
}

/// Looks at all reservations, and settles those whose executions have ended.
pub async fn settle_left_over(link: Link) {
    let link = &link;
    let books = match risk::books(link).await {
        Ok(books) => books,
        Err(e) => {
            tracing::debug!(error = %e, "reservations cannot be read; later again");
            return;
        }
    };
    if books.values().all(|book| book.as_ref().is_ok_and(|book| book.open.is_empty())) {
        return;
    }
    let now = match risk::ServerTime::new(link).now().await {
        Ok(now) => now,
        Err(e) => {
            tracing::debug!(error = %e, "reservations cannot be settled; later again");
            return;
        }
    };
    for (scope, book) in books {
        let Ok(book) = book else { continue };
        for (key, open) in book.open.iter().filter(|(_, open)| now.millis_since(open.at) > AFTER_MS) {
            let came = match came(link, key, open).await {
                Ok(came) => came,
                Err(e) => {
                    tracing::debug!(key, error = %e, "what came of a reservation cannot be read; later again");
                    continue;
                }
            };
            let changed = match came {
                Came::Open => continue,
                Came::NotDone => {
                    risk::change_book(link, &scope, |book| {
                        book.release(key);
                    })
                    .await
                }
                Came::Done(fill) => risk::change_book(link, &scope, |book| book.settle(key, fill.as_ref(), now)).await,
            };
            match changed {
                Ok(()) => tracing::info!(%scope, key, "settled a reservation that its worker left behind"),
                Err(e) => tracing::warn!(%scope, key, error = %e, "a reservation could not be settled; later again"),
            }
        }
    }
}

async fn came(link: &Link, key: &str, open: &Open) -> Result<Came, ApiError> {
    let Some((record, _)) = kv::record(link, &open.execution_id).await? else {
        tracing::warn!(key, "the execution of a reservation is not kept any more: it counts as done, at its worst");
        return Ok(Came::Done(at_worst(key, open)));
    };
    if !record.status.is_terminal() || record.unknown_nodes.iter().any(|n| n.node_id == open.node_id) {
        return Ok(Came::Open);
    }
    let log = history::read(link, &open.execution_id).await.map_err(|e| ApiError::new(Code::Unavailable, e.to_string()))?;
    let events = log.iter().filter_map(|(_, entry)| entry.event()).filter(|e| e.node_id.as_deref() == Some(&open.node_id));
    let (mut done, mut result) = (false, None);
    for event in events {
        match event.kind {
            EventType::EffectSettled => done |= event.status.as_deref() == Some("done"),
            // What an operator told of an order is no fill that could be read: at its worst.
            EventType::NodeCompleted => result = Some(fill_of(event).or_else(|| at_worst(key, open))),
            _ => {}
        }
    }
    Ok(match (result, done) {
        (Some(fill), _) => Came::Done(fill),
        // It happened and what it came to got lost.
        (None, true) => Came::Done(at_worst(key, open)),
        (None, false) => Came::NotDone,
    })
}

fn fill_of(event: &Event) -> Option<Fill> {
    event.risk.iter().find_map(|n| if let Noted::Fill(fill) = n { Some(fill.clone()) } else { None })
}

fn at_worst(key: &str, open: &Open) -> Option<Fill> {
    let order = open.order.as_ref()?;
    Some(Fill {
        id: key.to_owned(),
        venue: String::new(),
        symbol: order.symbol.clone(),
        side: order.side,
        quantity: order.quantity,
        price: order.price.unwrap_or_default(),
    })
}
