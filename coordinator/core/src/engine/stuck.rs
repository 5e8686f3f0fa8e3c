//! The sweep over what is in memory: an execution of which nothing was heard for long is read again,
//! with the tasks that are in the queue. What the state awaits and neither queue nor log has got
//! lost: it is emitted again. So none is stuck unseen, whatever was the reason.

use std::collections::HashSet;

use super::{Engine, Slot};
use crate::outputs::Output;

/// Looks without news before an execution is read again for the first time.
const LOOKS_FIRST: u32 = 6;
/// Looks between two reads at most: nodes may run for long.
const LOOKS_MAX: u32 = 60;

/// For how long nothing was heard of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quiet {
    looks: u32,
    /// Looks until it is read again.
    patience: u32,
    /// It was read again, and nothing was heard of it since.
    suspect: bool,
    /// What it awaits had got lost.
    pub(super) repaired: bool,
}

impl Default for Quiet {
    fn default() -> Self {
        Self { looks: 0, patience: LOOKS_FIRST, suspect: false, repaired: false }
    }
}

impl Engine {
    /// Looks for executions of which nothing was heard. To be called at regular times, some seconds
    /// apart: an execution is read again after 6 calls without news, then after 12, up to 60.
    pub fn look_for_stuck(&mut self) {
        let mut suspects = Vec::new();
        for (id, slot) in &mut self.slots {
            let Slot::Live(live) = slot else { continue };
            if (live.unanswered > 0 && !live.refused) || self.gated.contains(id) {
                continue;
            }
            live.quiet.looks += 1;
            if live.quiet.looks >= live.quiet.patience {
                let patience = (live.quiet.patience * 2).min(LOOKS_MAX);
                live.quiet = Quiet { looks: 0, patience, suspect: true, repaired: live.quiet.repaired };
                suspects.push(id.clone());
            }
        }
        suspects.sort_unstable();
        for id in suspects {
            self.reload(&id);
        }
    }

    /// Marks tasks that got lost, if `id` was read because nothing was heard of it: they are to be
    /// stored although their id was used before. Whether there were any.
    pub(super) fn repair(&mut self, id: &str, quiet: Quiet, stored: &HashSet<String>, outputs: &mut [Output]) -> bool {
        let mut repaired = false;
        for output in outputs.iter_mut().filter(|_| quiet.suspect) {
            if let Output::Task(task) = output
                && !stored.contains(&task.task_id)
            {
                task.repair = self.read.max(1);
                repaired = true;
                self.repairs.push(format!("{id}: task {} is neither in the queue nor in the log", task.task_id));
            }
        }
        repaired
    }

    /// Tasks that got lost and were emitted again, each in a sentence, since this was last called.
    pub fn take_repairs(&mut self) -> Vec<String> {
        std::mem::take(&mut self.repairs)
    }

    /// Executions of which nothing was heard since lost tasks of theirs were emitted again, and those that wait for
    /// a write that was refused.
    pub fn stuck(&self) -> u64 {
        let stuck = |slot: &&Slot| matches!(slot, Slot::Live(live) if live.quiet.repaired || live.refused);
        self.slots.values().filter(stuck).count() as u64
    }

    /// Executions with an effect of unknown outcome.
    pub fn unknown(&self) -> u64 {
        let unknown = |slot: &&Slot| matches!(slot, Slot::Live(live) if !live.execution.unknown.is_empty());
        self.slots.values().filter(unknown).count() as u64
    }

    /// Executions with nodes that only an open gate lets out.
    pub fn waiting(&self) -> u64 {
        self.gated.len() as u64
    }
}
