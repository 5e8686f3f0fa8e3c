//! Bugs made on purpose, to prove that `haltline torture` catches them: built in only with the feature
//! `planted`, and then made by a process whose `HALTLINE_PLANTED` names one. Without the feature
//! [`planted`] is a constant `false`, and nothing of them is compiled in.

use std::sync::OnceLock;

/// A bug, made at the one or two places where a person would make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The coordinator takes results without looking at their tokens.
    TokenUnchecked,
    /// A worker acknowledges a task when its node has run, and stores the result then.
    EarlyAck,
    /// Records are put, not swapped.
    Put,
    /// What a coordinator that takes a shard finds to be dispatched counts as dispatched.
    DispatchForgotten,
    /// Reading an execution back leaves out its newest message.
    EventLeftOut,
    /// A tail that is interrupted begins again with all messages.
    TailAll,
    /// Messages are stored without a message id.
    NoMessageId,
    /// Nothing fences a stalled worker: it goes on, and who takes its task over makes no claim.
    LateResult,
    /// Coordinators keep their shards when another one has taken them.
    TwoOwners,
    /// An effect that may have happened is repeated without asking.
    BlindRepeat,
    /// The guard is not asked again once an intent is stored.
    NoSecondCheck,
    /// A lease does not end.
    EndlessLease,
    /// What an action reserves is stored over what others have stored since the record was read.
    ReservationPut,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::TokenUnchecked,
        Self::EarlyAck,
        Self::Put,
        Self::DispatchForgotten,
        Self::EventLeftOut,
        Self::TailAll,
        Self::NoMessageId,
        Self::LateResult,
        Self::TwoOwners,
        Self::BlindRepeat,
        Self::NoSecondCheck,
        Self::EndlessLease,
        Self::ReservationPut,
    ];

    /// Its name, and what it does, in words.
    pub const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::TokenUnchecked => ("token-unchecked", "a result is applied without a look at its token"),
            Self::EarlyAck => ("early-ack", "a task is acknowledged before its result is stored"),
            Self::Put => ("put", "records are put instead of compared and swapped"),
            Self::DispatchForgotten => ("dispatch-forgotten", "a pending dispatch is cleared before the task is stored"),
            Self::EventLeftOut => ("event-left-out", "recovery leaves out the newest event"),
            Self::TailAll => ("tail-all", "an interrupted tail begins again with all messages"),
            Self::NoMessageId => ("no-message-id", "messages are stored without Nats-Msg-Id"),
            Self::LateResult => ("late-result", "the late result of a stalled worker counts"),
            Self::TwoOwners => ("two-owners", "two owners of a shard never step down"),
            Self::BlindRepeat => ("blind-repeat", "an intended effect is repeated without asking"),
            Self::NoSecondCheck => ("no-second-check", "neither flag nor lease is looked at again once an intent is stored"),
            Self::EndlessLease => ("endless-lease", "a worker's lease does not end"),
            Self::ReservationPut => ("reservation-put", "a reservation is stored over what others have reserved meanwhile"),
        }
    }

    /// The one of that name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.told().0 == name)
    }
}

/// Whether this build can make them.
pub const BUILT_IN: bool = cfg!(feature = "planted");

static MADE: OnceLock<Bug> = OnceLock::new();

/// Makes `bug` from now on, in a build that can. Called once, by the command line, before services start.
pub fn plant(bug: Bug) {
    // A second call finds it set: the first one counts.
    let _ = MADE.set(bug);
}

/// Whether this process makes `bug`.
#[inline]
pub fn planted(bug: Bug) -> bool {
    BUILT_IN && MADE.get() == Some(&bug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_is_found_by_its_name_and_none_is_made_unasked() {
        for bug in Bug::ALL {
            assert_eq!(Bug::find(bug.told().0), Some(bug));
            assert!(!planted(bug));
        }
        assert_eq!(Bug::find("none"), None);
        plant(Bug::Put);
        assert_eq!(planted(Bug::Put), BUILT_IN);
    }
}
