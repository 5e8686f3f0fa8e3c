//! Requests: submissions, cancels and resolutions, each to the coordinator of its shard. What has to be asked of the
//! server first is fetched beside the loop.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use async_nats::{Message, Subject};
use futures_util::{Stream, StreamExt, stream::SelectAll};
use haltline_common::{
    Link, clock, kv,
    types::{
        error::{ApiError, Code},
        record::Status,
        submit::{Accepted, Cancel, Submit},
    },
};
use haltline_core::Plan;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    plans,
    resolve::{self, Resolved},
    service::Service,
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Submit,
    Cancel,
    Resolve,
}

/// A request to a shard.
pub struct Request {
    kind: Kind,
    shard: u32,
    epoch: u64,
    message: Message,
}

/// What was asked of the server for a request.
pub enum Fetched {
    Plan(Submit, Result<Arc<Plan>, ApiError>),
    Cancel(Cancel, Result<Option<Status>, ApiError>),
    Resolve(Result<Resolved, ApiError>),
}

/// Whose request it was.
#[derive(Clone, Copy)]
pub struct Asked {
    shard: u32,
    epoch: u64,
    ticket: u64,
}

/// Where an answer goes.
pub struct To {
    pub subject: Subject,
    /// The end is waited for on the same subject.
    pub by_end: bool,
}

/// What comes next.
pub enum Next {
    Request(Request),
    Fetched(Box<(Asked, Fetched)>),
}

/// Requests to all shards of this coordinator.
pub struct Requests {
    link: Link,
    incoming: SelectAll<Pin<Box<dyn Stream<Item = Request> + Send>>>,
    fetches: JoinSet<(Asked, Fetched)>,
    tickets: HashMap<u64, To>,
    next_ticket: u64,
    /// Where to say that the shard was given up before the request was dealt with.
    unanswered: Vec<Subject>,
}

impl Requests {
    /// Listens to nothing yet.
    pub fn new(link: &Link) -> Self {
        Self {
            link: link.clone(),
            incoming: SelectAll::new(),
            fetches: JoinSet::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            unanswered: Vec::new(),
        }
    }

    /// Listens to the requests of a shard until `until`.
    pub async fn listen(&mut self, shard: u32, epoch: u64, until: &CancellationToken) {
        let names = &self.link.names;
        let subjects = [(Kind::Submit, names.submit(shard)), (Kind::Cancel, names.cancel(shard)), (Kind::Resolve, names.resolve(shard))];
        for (kind, subject) in subjects {
            match self.link.client.queue_subscribe(subject, "coordinators".into()).await {
                Ok(subscriber) => {
                    let until = until.clone().cancelled_owned();
                    let requests = subscriber.map(move |message| Request { kind, shard, epoch, message });
                    self.incoming.push(Box::pin(requests.take_until(until)));
                }
                Err(e) => tracing::error!(shard, error = %e, "cannot listen to requests"),
            }
        }
    }

    /// The next request, if there is `room` for one, or the next thing fetched. Cancel safe.
    pub async fn next(&mut self, room: bool) -> Next {
        loop {
            tokio::select! {
                Some(request) = self.incoming.next(), if room && !self.incoming.is_empty() => return Next::Request(request),
                Some(done) = self.fetches.join_next(), if !self.fetches.is_empty() => match done {
                    Ok(done) => return Next::Fetched(Box::new(done)),
                    // Of a task that panicked: its client asks again.
                    Err(e) => tracing::error!(error = %e, "a request was lost"),
                },
                else => std::future::pending().await,
            }
        }
    }

    /// Where the answer to a request goes.
    pub fn answer_to(&mut self, ticket: u64) -> Option<To> {
        self.tickets.remove(&ticket)
    }
}

impl Requests {
    /// Where to say that the shard was given up, since this was last called.
    pub fn take_unanswered(&mut self) -> Vec<Subject> {
        std::mem::take(&mut self.unanswered)
    }
}

impl Service {
    /// Takes in what came.
    pub(crate) fn requested(&mut self, next: Next) {
        match next {
            Next::Request(request) => self.request(request),
            Next::Fetched(done) => self.fetched(*done),
        }
    }

    fn request(&mut self, request: Request) {
        let Request { kind, shard, epoch, message } = request;
        let Some(reply) = message.reply else { return };
        let requests = &mut self.requests;
        requests.next_ticket += 1;
        let asked = Asked { shard, epoch, ticket: requests.next_ticket };
        requests.tickets.insert(asked.ticket, To { subject: reply, by_end: false });
        match kind {
            Kind::Submit => match serde_json::from_slice::<Submit>(&message.payload) {
                Ok(submit) => match self.plans.get(&submit.workflow_id, submit.version.as_deref()) {
                    Some(plan) => self.submit(asked, submit, plan),
                    None => {
                        let link = self.link.clone();
                        self.requests.fetches.spawn(async move {
                            let plan = plans::fetch(&link, &submit.workflow_id, submit.version.as_deref()).await;
                            (asked, Fetched::Plan(submit, plan))
                        });
                    }
                },
                Err(e) => self.refuse(asked, ApiError::invalid("submission", e.to_string())),
            },
            Kind::Cancel => match serde_json::from_slice::<Cancel>(&message.payload) {
                Ok(c) => {
                    let link = self.link.clone();
                    self.requests.fetches.spawn(async move {
                        let status = kv::record(&link, &c.execution_id).await.map(|r| r.map(|(r, _)| r.status));
                        (asked, Fetched::Cancel(c, status))
                    });
                }
                Err(e) => self.refuse(asked, ApiError::invalid("cancel", e.to_string())),
            },
            Kind::Resolve => {
                let link = self.link.clone();
                self.requests.fetches.spawn(async move { (asked, Fetched::Resolve(resolve::check(&link, &message.payload).await)) });
            }
        }
    }

    /// Goes on with a request for which something was fetched.
    fn fetched(&mut self, (asked, fetched): (Asked, Fetched)) {
        match fetched {
            Fetched::Plan(submit, Ok(plan)) => {
                self.plans.keep(&plan);
                self.submit(asked, submit, plan);
            }
            Fetched::Cancel(c, Ok(None)) => {
                let message = format!("there is no execution `{}`", c.execution_id);
                self.refuse(asked, ApiError::new(Code::UnknownExecution, message));
            }
            Fetched::Cancel(c, Ok(Some(status))) => match self.engine(asked) {
                // Ended already: it stays as it is.
                Some(engine) if status.is_terminal() => {
                    engine.reply(asked.ticket, Accepted { execution_id: c.execution_id, status, repeated: true });
                }
                Some(engine) => engine.cancel(asked.ticket, c, clock::now()),
                None => self.gone(asked),
            },
            Fetched::Resolve(Ok(resolved)) => match (self.engine(asked), resolved) {
                (Some(engine), Resolved::Command(command)) => engine.resolve(asked.ticket, *command),
                (Some(engine), Resolved::Known(accepted)) => engine.reply(asked.ticket, accepted),
                (None, _) => self.gone(asked),
            },
            Fetched::Plan(_, Err(e)) | Fetched::Cancel(_, Err(e)) | Fetched::Resolve(Err(e)) => self.refuse(asked, e),
        }
    }

    fn submit(&mut self, asked: Asked, submit: Submit, plan: Arc<Plan>) {
        self.look_at_gate();
        if let Some(to) = self.requests.tickets.get_mut(&asked.ticket) {
            to.by_end = submit.notify.as_deref() == Some(to.subject.as_str());
        }
        // What all shards hold together is what bounds memory.
        let running: usize = self.shards.values().map(|s| s.engine.running()).sum();
        let full = running >= self.executions_max;
        match self.engine(asked) {
            Some(engine) if full => {
                let message = format!("{running} executions are running, the most this coordinator admits; repeat later");
                engine.refuse(asked.ticket, ApiError::new(Code::Overloaded, message));
            }
            Some(engine) => engine.submit(asked.ticket, submit, plan, clock::now()),
            None => self.gone(asked),
        }
    }

    fn refuse(&mut self, asked: Asked, e: ApiError) {
        match self.engine(asked) {
            Some(engine) => engine.refuse(asked.ticket, e),
            None => self.gone(asked),
        }
    }

    fn engine(&mut self, asked: Asked) -> Option<&mut haltline_core::Engine> {
        self.shards.get_mut(&asked.shard).filter(|s| s.epoch == asked.epoch && !s.is_leaving()).map(|s| &mut s.engine)
    }

    /// The shard was given up since: the client asks again and finds the new owner.
    fn gone(&mut self, asked: Asked) {
        let to = self.requests.tickets.remove(&asked.ticket);
        self.requests.unanswered.extend(to.map(|to| to.subject));
    }
}
