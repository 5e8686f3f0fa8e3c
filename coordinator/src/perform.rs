//! Performing what the engines want: writes as messages, each with its fault point, answers, loads.

use std::time::{Duration, Instant};

use haltline_common::{
    fault, metrics,
    outbox::{Once, Write},
    planted::{Bug, planted},
    types::{
        self, Names,
        error::{ApiError, Code},
        event::EventType,
        ids::token,
        submit::Reply,
    },
};
use haltline_core::{Body, Out};
use serde::Serialize;

use crate::{
    loads,
    service::{Service, Tag},
};

/// Header of a record that replaces another and is not final.
pub const OPEN: &str = "Haltline-Open";

/// Executions read back at once.
const LOADS_MAX: usize = 64;

/// The message for a body; a final record expires after `keep`.
pub fn message(names: &Names, body: &Body, keep: Option<Duration>) -> Write {
    match body {
        Body::Create(record) => {
            fault::point("coordinator.create");
            let key = token(&record.correlation.execution_id);
            Write::swap(Names::kv_subject(&names.executions_bucket(), &key), 0, json(record))
        }
        Body::Replace(record, revision) => {
            fault::point("coordinator.final");
            let key = token(&record.correlation.execution_id);
            let mut write = Write::swap(Names::kv_subject(&names.executions_bucket(), &key), *revision, json(record));
            if !record.status.is_terminal() {
                write.headers.insert(OPEN, "1");
            } else if let Some(keep) = keep {
                write.headers.insert("Nats-TTL", keep.as_secs().to_string());
            }
            write
        }
        Body::Note(event) => {
            fault::point(match event.kind {
                EventType::ExecutionStarted => "coordinator.started",
                EventType::NodeSkipped => "coordinator.skipped",
                _ => "coordinator.ended",
            });
            Write::with_id(names.note(&event.execution_id), event.id.as_str(), json(event))
        }
        Body::Start(event) => {
            fault::point("coordinator.started");
            Write::first(names.input(&event.execution_id), event.id.as_str(), json(event))
        }
        Body::Task(task) => {
            fault::point("coordinator.task");
            let kind = task.nodes.first().map_or("", |n| n.kind.as_str());
            Write::with_id(names.task(kind, &task.correlation.execution_id), task.message_id(), json(task))
        }
        Body::Command(command) => {
            fault::point("coordinator.command");
            Write::with_id(names.command(&command.execution_id), command.message_id(), json(command))
        }
    }
}

/// One line of JSON. Our own types serialize; an empty message would be refused by its reader.
pub fn json(value: &impl Serialize) -> Vec<u8> {
    types::json::line(value).unwrap_or_else(|e| {
        tracing::error!(error = %e, "cannot serialize");
        Vec::new()
    })
}

impl Service {
    /// Tells acceptances that were held back, those that were for long enough or all.
    pub(crate) async fn tell_held(&mut self, all: bool) {
        for (subject, accepted) in self.held.due(Instant::now(), all) {
            let _ = self.link.client.publish(subject, json(&Reply::Ok(accepted)).into()).await;
        }
    }

    /// Performs what the engines want, in order.
    pub(crate) async fn perform(&mut self) {
        for shard in self.shards.values_mut() {
            while let Some(out) = shard.engine.take() {
                match out {
                    Out::Write(id, body) => {
                        if matches!(&body, Body::Task(task) if task.recovered) && planted(Bug::DispatchForgotten) {
                            shard.engine.stored(id, 0);
                            continue;
                        }
                        let mut write = message(&self.link.names, &body, self.keep);
                        if matches!(write.once, Once::Swap(_)) && planted(Bug::Put) {
                            write.once = Once::Harmless;
                        }
                        if let Body::Command(c) = &body {
                            // A hint for workers that run it right now; the log is what counts.
                            let _ = self.link.client.publish(self.link.names.stop(&c.execution_id), json(c).into()).await;
                        }
                        let record = matches!(body, Body::Create(_) | Body::Replace(..));
                        self.outbox.send(Tag::Engine { shard: shard.number, epoch: shard.epoch, id, record }, write).await;
                    }
                    Out::Load(id, key) => self.loads_waiting.push((shard.number, shard.epoch, id, key)),
                    Out::Reply(ticket, reply) => {
                        fault::point("coordinator.reply");
                        match &reply {
                            Reply::Ok(a) => metrics::EXECUTIONS_ACCEPTED.add(u64::from(!a.repeated)),
                            Reply::Error(e) => {
                                metrics::SUBMISSIONS_REFUSED.inc();
                                tracing::info!(code = ?e.code, message = e.message, "refused");
                            }
                        }
                        let Some(to) = self.requests.answer_to(ticket) else { continue };
                        let (subject, reply) = match reply {
                            Reply::Ok(a) if to.by_end && !a.repeated && !self.leaving => {
                                match self.held.hold(Instant::now(), to.subject, a) {
                                    None => continue,
                                    Some((subject, a)) => (subject, Reply::Ok(a)),
                                }
                            }
                            reply => (to.subject, reply),
                        };
                        let _ = self.link.client.publish(subject, json(&reply).into()).await;
                    }
                    Out::Notify(subject, outcome) => {
                        fault::point("coordinator.notify");
                        tracing::debug!(execution_id = outcome.execution_id.as_str(), status = outcome.status.as_str(), "execution ended");
                        metrics::EXECUTIONS_ENDED.inc();
                        self.held.ended(&outcome.execution_id);
                        let _ = self.link.client.publish(subject.to_string(), json(&outcome).into()).await;
                    }
                }
            }
        }
        for subject in self.requests.take_unanswered() {
            let e = ApiError::new(Code::Unavailable, "the shard is moving to another coordinator; repeat");
            let _ = self.link.client.publish(subject, json(&Reply::Error(e)).into()).await;
        }
        // Together, where writes are grouped.
        self.outbox.flush().await;
        while self.loads.len() < LOADS_MAX
            && let Some((shard, epoch, id, key)) = self.loads_waiting.pop()
        {
            let (link, plans) = (self.link.clone(), self.plans.snapshot());
            self.loads.spawn(async move {
                let (id, loaded) = loads::load(link, id, key, plans).await;
                (shard, epoch, id, loaded)
            });
        }
    }
}
