//! Clients: submit with a key until answered, wait for the end; after a kill they come back with the
//! same key, or not at all.

use haltline_types::{
    SmolStr,
    error::Code,
    record::Status,
    submit::{Cancel, Reply, Submit},
};
use serde_json::json;

use super::{
    CLIENTS, Killed, Pid, Time,
    net::{Down, Up},
    world::{Timer, World},
};

/// A client with one submission.
#[derive(Default)]
pub struct Client {
    pub key: String,
    pub workflow: String,
    /// Told by a coordinator.
    pub execution: Option<SmolStr>,
    /// It saw the end, or was refused for good.
    pub done: bool,
    pub saw: Option<Status>,
    request: u64,
    next_look: Time,
    pub cancels: bool,
    cancel_request: Option<u64>,
}

impl Client {
    pub fn new(key: String, workflow: String, cancels: bool) -> Self {
        Self { key, workflow, cancels, ..Self::default() }
    }
    /// It is about to ask for a cancel, or was not answered yet.
    pub fn asks(&self) -> bool {
        self.cancels && self.execution.is_some()
    }
    /// A new life knows the key and nothing else.
    pub fn begin_again(&mut self) {
        self.next_look = 0;
        self.cancel_request = None;
        if self.done {
            self.cancels = false;
        } else {
            self.execution = None;
        }
    }
}

impl World {
    /// The client's next act.
    pub fn client_timer(&mut self, pid: Pid, timer: Timer) {
        let c = &self.clients[pid - CLIENTS];
        if c.done && !c.cancels {
            return;
        }
        if matches!(timer, Timer::CancelNow) {
            self.cancel_now(pid);
            return;
        }
        if self.now < c.next_look || c.done {
            return;
        }
        let _: Result<(), Killed> = self.act(pid);
    }

    fn act(&mut self, pid: Pid) -> Result<(), Killed> {
        let (now, c) = (self.now, &mut self.clients[pid - CLIENTS]);
        c.request += 1;
        let (request, execution) = (c.request, c.execution.clone());
        let wait = if execution.is_some() { 60 } else { 120 };
        c.next_look = now + wait;
        match execution {
            None => {
                let submit = Submit {
                    workflow_id: c.workflow.clone().into(),
                    version: None,
                    input: json!({}),
                    bot_id: None,
                    strategy_id: None,
                    key: c.key.clone().into(),
                    notify: Some(pid.to_string().into()),
                };
                self.point(pid, "client.submit")?;
                self.send(pid, Up::Submit { from: pid, request, submit: Box::new(submit) });
            }
            Some(id) => {
                self.point(pid, "client.wait")?;
                self.send(pid, Up::ReadRecord { token: request, id, point: "client.wait" });
            }
        }
        self.timer(pid, wait, Timer::Client);
        Ok(())
    }

    fn cancel_now(&mut self, pid: Pid) {
        let c = &mut self.clients[pid - CLIENTS];
        let Some(id) = c.execution.clone().filter(|_| c.cancels) else { return };
        c.request += 1;
        c.cancel_request = Some(c.request);
        let (request, cancel) = (c.request, Cancel { execution_id: id, reason: "changed my mind".into(), by: "client".into() });
        self.send(pid, Up::Cancel { from: pid, request, cancel });
        self.timer(pid, 150, Timer::CancelNow);
    }

    pub fn client_heard(&mut self, pid: Pid, down: Down) {
        let resumes = self.plan.halt.is_some_and(|(_, resume)| resume.is_some());
        let now = self.now;
        let c = &mut self.clients[pid - CLIENTS];
        match down {
            Down::Reply { request, reply } if c.cancel_request == Some(request) => {
                if matches!(reply, Some(Reply::Ok(_))) {
                    c.cancels = false;
                }
            }
            Down::Reply { request, reply: Some(Reply::Ok(ok)) } if c.execution.is_none() && request <= c.request => {
                c.execution = Some(ok.execution_id.clone());
                c.next_look = now + 1;
                let key = c.key.clone();
                let cancels = c.cancels;
                self.note(|| format!("client {pid} told {} {:?}", ok.execution_id, ok.status));
                self.acknowledged.push((key, ok.execution_id.to_string()));
                self.timer(pid, 1, Timer::Client);
                if cancels {
                    let delay = self.rng.range(0, 150);
                    self.timer(pid, delay, Timer::CancelNow);
                }
            }
            // A late answer to an earlier request: it must name the same execution.
            Down::Reply { reply: Some(Reply::Ok(ok)), .. } if !c.cancels && ok.execution_id != c.execution.clone().unwrap_or_default() => {
                let text = format!("key {} became {} and {:?}", c.key, ok.execution_id, c.execution);
                self.failures.push(text);
            }
            Down::Reply { reply: Some(Reply::Ok(_)), .. } => {}
            Down::Reply { reply: Some(Reply::Error(e)), .. } if c.execution.is_none() => match e.code {
                Code::EmergencyHalted if resumes => {}
                Code::EmergencyHalted => c.done = true,
                code if code.retryable() => {}
                _ => self.failures.push(format!("client {pid} was refused: {e}")),
            },
            Down::Reply { .. } => {}
            Down::Record { record, .. } => match record {
                Some((_, record)) if record.status.is_terminal() => {
                    c.done = true;
                    c.saw = Some(record.status);
                }
                Some(_) => {}
                None => self.failures.push(format!("the record of {:?} is gone", c.execution)),
            },
            Down::Notify(outcome) if c.execution.as_ref() == Some(&outcome.execution_id) => {
                c.done = true;
                c.saw = Some(outcome.status);
            }
            _ => {}
        }
    }
}
