//! What a node's side effect takes from risk limits: reserved before it, settled by its outcome, and told with
//! the node's result.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use haltline_common::{
    risk::{Door, Refusal, Wanted},
    types::{
        Effect,
        control::Scope,
        risk::{Fill, Noted, Order},
    },
};

use crate::{
    context::{Context, NodeError, Outputs},
    registry::Node,
};

/// How often it is looked again whether the rules are certain.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What a venue's refusal of an order is called; of an `http` order, which certainly was not taken, any other status.
const REJECTED: [&str; 2] = ["Rejected", "HttpStatus"];

/// One attempt's reservations.
pub struct Reserve {
    door: Door,
    node: Arc<dyn Node>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// From which scopes something is reserved.
    scopes: Vec<Scope>,
    order: Option<Order>,
    noted: Vec<Noted>,
}

/// What became of an attempt, as far as reservations care.
pub enum Came<'a> {
    /// It completed, with these outputs.
    Completed(&'a Outputs),
    /// It failed so; whether what it did outside is certain to have happened.
    Failed { error_type: &'a str, done: bool },
    /// Nothing happened outside.
    NotDone,
    /// Nobody knows: what is reserved stays.
    InDoubt,
}

impl Reserve {
    /// Of an attempt of a node.
    pub fn new(door: Door, node: Arc<dyn Node>) -> Self {
        Self { door, node, state: Mutex::default() }
    }

    /// The lock is never held across anything that can panic or wait.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves what the effect of `ctx` takes at worst.
    ///
    /// # Errors
    /// `RiskLimitExceeded` names rule, limit, current and asked; nothing may be sent then.
    pub async fn before(&self, ctx: &Context) -> Result<(), NodeError> {
        let order = self.node.order(ctx)?;
        let (key, place) = (ctx.idempotency_key(), ctx.place());
        let wanted = Wanted {
            key: &key,
            execution_id: &ctx.correlation.execution_id,
            node_id: &ctx.node_id,
            order: order.clone(),
            bound: place.effect != Effect::ReducesRisk,
        };
        let reserved = self.door.reserve(&place, &wanted).await;
        if let Err(Refusal::Unsure(why)) = &reserved {
            tracing::debug!(key, why, "waiting for the risk rules");
            // The same attempt begins anew at once.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let mut state = self.state();
        state.order = order;
        let reserved = reserved.map_err(|refusal| match refusal {
            Refusal::Limit(breach) => {
                let message = breach.sentence();
                state.noted.push(Noted::Refused(*breach));
                NodeError::fatal("RiskLimitExceeded", message).not_done()
            }
            Refusal::Uncountable(why) => NodeError::fatal("RiskUncountable", why).not_done(),
            Refusal::NoPrice(which) => {
                let message = format!("is needed: {which}, and nothing else bounds the price that this order is filled at");
                NodeError::invalid("worst_price", message)
            }
            Refusal::Unsure(why) => NodeError::Unsure(why),
            Refusal::Unavailable(why) => NodeError::retryable("RiskUnavailable", why).not_done(),
        })?;
        state.noted.extend(reserved.near.into_iter().map(Noted::Warned));
        for scope in reserved.scopes {
            if !state.scopes.contains(&scope) {
                state.scopes.push(scope);
            }
        }
        Ok(())
    }

    /// Settles what was reserved; what the node's result says about risk.
    pub async fn after(&self, ctx: &Context, came: Came<'_>) -> Vec<Noted> {
        let (scopes, order, mut noted) = {
            let mut state = self.state();
            (state.scopes.clone(), state.order.clone(), std::mem::take(&mut state.noted))
        };
        let (key, place) = (ctx.idempotency_key(), ctx.place());
        match came {
            Came::Completed(outputs) => {
                let told = self.node.noted(ctx, outputs, place.venue);
                let fill = told.iter().find_map(|n| if let Noted::Fill(fill) = n { Some(fill) } else { None });
                // What did nothing outside has nothing to settle: an order that a signal skipped, a read.
                if fill.is_some() || !scopes.is_empty() {
                    self.door.settle(&place, &scopes, &key, fill).await;
                }
                noted.extend(told);
            }
            Came::Failed { done: true, .. } => {
                // It happened and what it came to is not known: at worst.
                let fill = order.as_ref().map(|order| at_worst(&key, place.venue, order));
                self.door.settle(&place, &scopes, &key, fill.as_ref()).await;
            }
            Came::Failed { error_type, done: false } => {
                self.door.release(&scopes, &key).await;
                if REJECTED.contains(&error_type) && order.is_some() {
                    noted.push(Noted::Rejected { venue: place.venue.to_owned() });
                }
            }
            Came::NotDone => self.door.release(&scopes, &key).await,
            Came::InDoubt => {}
        }
        noted
    }
}

/// An order filled as a whole at the worst price.
fn at_worst(key: &str, venue: &str, order: &Order) -> Fill {
    Fill {
        id: key.to_owned(),
        venue: venue.to_owned(),
        symbol: order.symbol.clone(),
        side: order.side,
        quantity: order.quantity,
        price: order.price.unwrap_or_default(),
    }
}
