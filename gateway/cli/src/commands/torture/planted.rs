//! Which faults find a planted bug soonest.

use haltline_common::{
    planted::{BUILT_IN, Bug},
    types::error::ApiError,
};

use super::plan::{Kind, Weight};

/// The bug that `--planted` names.
///
/// # Errors
/// When there is none of that name, or this build cannot make it.
pub fn find(name: &str) -> Result<Bug, ApiError> {
    let Some(bug) = Bug::find(name) else {
        return Err(ApiError::invalid("--planted", format!("`{name}` is no planted bug; `--planted list` names them")));
    };
    if !BUILT_IN {
        let message = "this build makes no bugs; use one of `cargo build -p haltline-cli --features planted`";
        return Err(ApiError::invalid("--planted", message));
    }
    Ok(bug)
}

/// Faults for `bug`: what, to whose names, how often out of the sum of all.
pub fn weights(bug: Bug) -> &'static [Weight] {
    use Kind::*;
    match bug {
        // A result on its way while another worker runs the task.
        Bug::TokenUnchecked => &[(Hold, "worker", 4), (Stall, "worker", 1)],
        Bug::LateResult => &[(Hold, "worker", 2), (Stall, "worker", 3)],
        // Mostly by the fault point.
        Bug::EarlyAck => &[(Kill, "worker", 1), (Stall, "worker", 1)],
        Bug::Put => &[(Stall, "coordinator", 2), (Kill, "coordinator", 1)],
        Bug::DispatchForgotten | Bug::EventLeftOut => &[(Kill, "coordinator", 1)],
        // Halts of the past are seen where they come one by one.
        Bug::TailAll => &[(Throttle, "worker", 3), (Throttle, "coordinator", 1), (Kill, "nats", 2)],
        Bug::NoMessageId => &[(Duplicate, "worker", 2), (Duplicate, "coordinator", 1), (Reset, "worker", 1)],
        Bug::TwoOwners => &[(Stall, "coordinator", 2), (Hold, "coordinator", 1)],
        Bug::BlindRepeat => &[(LoseReplies, "market", 2), (Kill, "worker", 1)],
        // Seen where halts come at random moments.
        // Its fleet has no risk limits: `risk::race` of the process tests finds this one.
        Bug::ReservationPut => &[(Stall, "worker", 2)],
        Bug::NoSecondCheck | Bug::EndlessLease => &[(Stall, "worker", 3), (Hold, "worker", 2)],
    }
}

/// The fault point that processes of a role are killed at, again and again, if one helps.
pub fn point(bug: Bug) -> Option<(&'static str, &'static str)> {
    (bug == Bug::EarlyAck).then_some(("worker", "worker.result:25"))
}
