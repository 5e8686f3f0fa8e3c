//! Submissions and cancels: from request to record.

use std::sync::Arc;

use haltline_types::{
    SmolStr, Timestamp, WIRE_VERSION,
    control::Gate,
    error::{ApiError, Code},
    event::{Command, CommandType, Correlation},
    ids, json,
    limits::{INPUT_BYTES_MAX, KEY_BYTES_MAX, TEXT_BYTES_MAX},
    record::{Record, Status},
    submit::{Accepted, Cancel, Reply, Submit},
};
use serde_json::Value;

use super::{Body, Engine, Loading, Out, Purpose, Slot, Waiting};
use crate::plan::Plan;

/// Candidate ids tried for one submission: a clash of 32 bits is rare, this many in a row are a fault.
const DRAWS_MAX: u32 = 10_000;

impl Engine {
    /// A request to start an execution of `plan`'s workflow. Answered with [`Out::Reply`] under
    /// `ticket`, once everything the answer implies is stored.
    pub fn submit(&mut self, ticket: u64, submit: Submit, plan: Arc<Plan>, now: Timestamp) {
        self.now = self.now.max(now);
        if let Err(e) = self.admit(&submit, &plan) {
            self.refuse(ticket, e);
            return;
        }
        let body = body_digest(&submit, &plan);
        self.draw(Waiting { ticket, submit: Arc::new(submit), body, draw: 0, plan, now });
    }

    /// Everything that can refuse a submission before anything is written.
    fn admit(&self, s: &Submit, plan: &Plan) -> Result<(), ApiError> {
        if s.key.is_empty() || s.key.len() > KEY_BYTES_MAX {
            return Err(ApiError::invalid("key", format!("must have 1 to {KEY_BYTES_MAX} bytes")));
        }
        if !matches!(s.input, Value::Null | Value::Object(_)) {
            return Err(ApiError::invalid("input", "must be an object"));
        }
        for (field, id) in [("bot_id", &s.bot_id), ("strategy_id", &s.strategy_id)] {
            if let Some(Err(e)) = id.as_deref().filter(|i| !i.is_empty()).map(ids::check_id) {
                return Err(ApiError::invalid(field, e));
            }
        }
        if json::size(&s.input) > INPUT_BYTES_MAX {
            let message = format!("input: has more than {INPUT_BYTES_MAX} bytes");
            return Err(ApiError { field: Some("input".into()), ..ApiError::new(Code::TooLarge, message) });
        }
        let c = correlation("", s, plan);
        match self.guard.admits((0..plan.len() as u32).map(|i| plan.place(i, &c))) {
            Gate::Open => {}
            Gate::Halted(flag) => {
                let detail = serde_json::to_value(&flag).unwrap_or_default();
                return Err(ApiError::new(Code::EmergencyHalted, flag.sentence()).with_detail(detail));
            }
            Gate::Unsure(why) => return Err(ApiError::new(Code::ControlUnsure, why)),
        }
        if self.slots.len() >= self.limits.executions_max {
            let message = format!("{} executions are running, the most this coordinator admits; repeat later", self.slots.len());
            return Err(ApiError::new(Code::Overloaded, message));
        }
        Ok(())
    }

    /// Tries the next candidate id that lies in the key's shard.
    fn draw(&mut self, mut w: Waiting) {
        let shard = w.submit.shard(self.limits.shards);
        let draws = ids::Draws::new(&w.plan.definition().id, &w.submit.key);
        let Some((draw, id)) = draws.find(w.draw, DRAWS_MAX, shard, self.limits.shards) else {
            self.refuse(w.ticket, ApiError::new(Code::Internal, "no free execution id found"));
            return;
        };
        w.draw = draw;
        match self.slots.get_mut(&id) {
            None => {
                let record = new_record(&id, shard, &w);
                let entry = self.records.open(None);
                self.write(Purpose::Create(id.clone()), Body::Create(Box::new(record.clone())));
                self.slots.insert(
                    id,
                    Slot::Creating {
                        waiting: w,
                        record: Box::new(record),
                        entry,
                        inputs: Vec::new(),
                        end_told: false,
                        entries: Vec::new(),
                    },
                );
            }
            Some(Slot::Creating { record, .. }) if record.key == w.submit.key => {
                // The same request twice at once: the client repeats the one that stays unanswered.
                self.refuse(w.ticket, ApiError::new(Code::Unavailable, "the same submission is being stored right now; repeat"));
            }
            Some(Slot::Creating { .. }) => self.draw(Waiting { draw: w.draw + 1, ..w }),
            Some(Slot::Loading(loading)) => loading.waiting.push(w),
            Some(Slot::Live(live)) => {
                let record = live.execution.record().clone();
                let waits = live.unanswered > 0;
                self.meet(w, &record, waits);
            }
        }
    }

    /// A submission met an existing record: its own from before, or another's.
    pub(super) fn meet(&mut self, w: Waiting, record: &Record, waits: bool) {
        if record.key != w.submit.key {
            self.draw(Waiting { draw: w.draw + 1, ..w });
            return;
        }
        if record.body != w.body {
            let message = "this key was used with another body; a key stands for one submission";
            self.refuse(w.ticket, ApiError { field: Some("key".into()), ..ApiError::new(Code::Conflict, message) });
            return;
        }
        if waits && let Some(Slot::Live(live)) = self.slots.get_mut(&record.correlation.execution_id) {
            live.replies.push((w.ticket, true));
            return;
        }
        let ok = Accepted { execution_id: record.correlation.execution_id.clone(), status: record.status, repeated: true };
        self.out.push_back(Out::Reply(w.ticket, Reply::Ok(ok)));
    }

    /// The create found a record there already.
    pub(super) fn create_conflicted(&mut self, id: &str) {
        let Some(Slot::Creating { waiting, entry, inputs, end_told, entries, .. }) = self.slots.remove(id) else { return };
        // The entry stays open: the sweep may have passed over this record meanwhile.
        self.load(id, Loading { waiting: vec![waiting], inputs, end_told, entries, created: Some(entry), ..Loading::default() });
    }

    /// A request to cancel: it becomes part of the log before anything is decided on it. The shell
    /// checks that the execution exists.
    pub fn cancel(&mut self, ticket: u64, c: Cancel, now: Timestamp) {
        if c.reason.len() > TEXT_BYTES_MAX || c.by.len() > TEXT_BYTES_MAX {
            self.refuse(ticket, ApiError::invalid("reason", format!("has more than {TEXT_BYTES_MAX} bytes")));
            return;
        }
        let id = c.execution_id;
        let command = Box::new(Command { reason: c.reason, by: c.by, ..Command::new(CommandType::Cancel, &id, now) });
        match self.slots.get_mut(&id) {
            Some(Slot::Live(_)) => self.command(&id, Purpose::Command(ticket, id.clone()), command),
            Some(Slot::Loading(loading)) => loading.commands.push((ticket, command)),
            Some(Slot::Creating { .. }) => {
                self.refuse(ticket, ApiError::new(Code::Unavailable, "this execution is being stored right now; repeat"));
            }
            None => self.load(&id, Loading { commands: vec![(ticket, command)], ..Loading::default() }),
        }
    }

    /// What an operator found out: it becomes part of the log before anything is decided on it. The
    /// shell checks that the node waits for it.
    pub fn resolve(&mut self, ticket: u64, command: Command) {
        self.write(Purpose::Resolve(ticket, command.execution_id.clone()), Body::Command(Box::new(command)));
    }

    pub(super) fn cancel_stored(&mut self, ticket: u64, execution_id: SmolStr) {
        let ok = Accepted { execution_id, status: Status::Running, repeated: false };
        self.out.push_back(Out::Reply(ticket, Reply::Ok(ok)));
    }

    /// Answers a request.
    pub fn reply(&mut self, ticket: u64, accepted: Accepted) {
        self.out.push_back(Out::Reply(ticket, Reply::Ok(accepted)));
    }

    /// Answers a request with an error.
    pub fn refuse(&mut self, ticket: u64, e: ApiError) {
        self.out.push_back(Out::Reply(ticket, Reply::Error(e)));
    }
}

/// Digest of what a key stands for. The notify subject belongs to one try, not to the submission.
fn body_digest(s: &Submit, plan: &Plan) -> SmolStr {
    let parts = (&s.workflow_id, &plan.definition().version, &s.input, &s.bot_id, &s.strategy_id);
    ids::digest(&json::line(&parts).unwrap_or_default()).into()
}

fn correlation(id: &str, s: &Submit, plan: &Plan) -> Correlation {
    let d = plan.definition();
    Correlation {
        execution_id: id.into(),
        workflow_id: d.id.clone(),
        bot_id: s.bot_id.clone().unwrap_or_else(|| d.bot_id.clone()),
        strategy_id: s.strategy_id.clone().unwrap_or_else(|| d.strategy_id.clone()),
    }
}

fn new_record(id: &str, shard: u32, w: &Waiting) -> Record {
    let d = w.plan.definition();
    Record {
        v: WIRE_VERSION,
        correlation: correlation(id, &w.submit, &w.plan),
        status: Status::Running,
        workflow_version: d.version.clone(),
        shard,
        node_count: w.plan.len() as u32,
        nodes_completed: 0,
        nodes_failed: 0,
        nodes_skipped: 0,
        started_at: w.now,
        finished_at: None,
        duration_ms: None,
        key: w.submit.key.clone(),
        body: w.body.clone(),
        input: w.submit.input.clone(),
        notify: w.submit.notify.clone(),
        results: Arc::default(),
        results_omitted: false,
        error: None,
        error_type: None,
        failed_node: None,
        errors: Vec::new(),
        reason: None,
        event_count: None,
        unknown_nodes: Vec::new(),
    }
}
