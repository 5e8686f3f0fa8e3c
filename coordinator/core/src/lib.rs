//! The core that decides, without runtime, clock, randomness or I/O: what a definition means
//! ([`Plan`]), how an execution moves from input to input ([`Execution`]), how a coordinator keeps
//! log, records and tasks consistent through crashes ([`Engine`]), and how a worker walks through a
//! task ([`TaskRun`]). Time is an argument; effects are data.

mod effects;
mod engine;
mod execution;
mod floor;
mod outputs;
mod plan;
mod readings;
pub mod replay;
mod segments;
mod task_run;
mod unknown;

pub use effects::{Intent, Settled};
pub use engine::{Beside, Body, Engine, Guard, Limits, Loaded, LogMessage, Out, WriteId};
pub use execution::{Applied, Execution, Input};
pub use floor::{Floor, Known};
pub use outputs::Output;
pub use plan::{Plan, PlanNode, Problem};
pub use task_run::{After, Delivery, Next, NodeOutcome, STALE_INPUT, TaskRun};
