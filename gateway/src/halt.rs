//! The control flag as the gateway shows it: what is stored, and whether that is certain now.

use std::time::Duration;

use haltline_common::{
    control_watch::ControlWatch,
    types::{
        Timestamp,
        control::{Flag, Gate, Level},
    },
};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How often certainty is looked at: it fades without any message.
const LOOK: Duration = Duration::from_millis(500);

/// The flag and whether it can be trusted now.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct HaltView {
    /// As last read.
    pub flag: Option<Flag>,
    /// Why it is not certain, if it is not.
    pub unsure: Option<String>,
}

impl HaltView {
    /// For answers.
    pub fn shown(&self) -> Halt {
        match &self.flag {
            Some(f) => Halt {
                scope: "global",
                state: f.state.as_str(),
                rev: Some(f.revision),
                by: Some(f.by.clone()),
                reason: Some(f.reason.clone()),
                ts: f.at,
                sure: self.unsure.is_none(),
            },
            None => Halt { scope: "global", state: "unknown", rev: None, by: None, reason: self.unsure.clone(), ts: None, sure: false },
        }
    }
}

/// The same as answers show it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Halt {
    /// What it covers.
    scope: &'static str,
    /// The level; `unknown` while it has not been read.
    state: &'static str,
    /// Its revision.
    rev: Option<u64>,
    /// Who set it.
    by: Option<String>,
    /// Why; or why it is not certain.
    reason: Option<String>,
    /// When.
    ts: Option<Timestamp>,
    /// Whether this is certain now.
    sure: bool,
}

/// Follows the flag; the task ends when its handle is dropped.
pub(crate) fn watch(mut control: ControlWatch) -> (watch::Receiver<HaltView>, AbortOnDropHandle<()>) {
    let (tx, rx) = watch::channel(HaltView::default());
    let task = tokio::spawn(async move {
        loop {
            let flag = control.flag();
            let unsure = match control.gate() {
                // It is certain that everything waits.
                Gate::Unsure(_) if flag.as_ref().is_some_and(|f| f.state == Level::Hold) => None,
                // The age in the sentence changes all the time; readers are told once.
                Gate::Unsure(_) => Some("the watch on the control flag is interrupted".to_owned()),
                Gate::Open | Gate::Halted(_) => None,
            };
            let view = HaltView { flag, unsure };
            tx.send_if_modified(|old| {
                let changed = *old != view;
                if changed {
                    *old = view;
                }
                changed
            });
            tokio::select! { () = control.changed() => {}, () = tokio::time::sleep(LOOK) => {} }
        }
    });
    (rx, AbortOnDropHandle::new(task))
}
