//! Risk limits on the server: rules in the control bucket, what they count in the risk bucket.
//!
//! | bucket | key | what |
//! |---|---|---|
//! | control | `risk.<scope>.<name>` | a rule |
//! | risk | `reserved.<scope>` | what actions of the scope have reserved and spent |
//! | risk | `watched` | what outcomes show, and up to where the log was read |
//! | risk | `heartbeat.<scope>` | a dead-man switch |

mod door;
mod heartbeat;
mod rules;
mod status;
mod store;
mod time;

use haltline_types::{
    control::Scope,
    error::{ApiError, Code},
    ids::untoken,
};

pub use door::{Door, Refusal, Reserved, Wanted};
pub use heartbeat::{disarm, heartbeat, heartbeats};
pub use rules::{RiskRules, Rules};
pub use status::{RuleStatus, SwitchStatus, status, switches};
pub use store::{book, books, change_book, delete, reset, rules, set, watched};
pub use time::ServerTime;

/// Key of what outcomes show.
pub const WATCHED_KEY: &str = "watched";
/// What the keys of reservations begin with.
const RESERVED: &str = "reserved.";
/// What the keys of heartbeats begin with.
const HEARTBEAT: &str = "heartbeat.";
/// What the keys of rules begin with.
const RULE: &str = "risk.";
/// What the keys of flags begin with: the rest of a key names a scope alike in all of them.
const FLAG: &str = "halt.";

/// A scope as part of a key: `global`, `bot.alpha`.
fn scope_part(scope: &Scope) -> String {
    scope.key().trim_start_matches(FLAG).to_owned()
}

/// The scope that such a part names.
fn part_scope(part: &str) -> Option<Scope> {
    Scope::from_key(&[FLAG, part].concat())
}

/// Key of what a scope's actions have reserved.
pub fn reserved_key(scope: &Scope) -> String {
    [RESERVED, &scope_part(scope)].concat()
}

/// The scope of a key of reservations.
pub fn reserved_scope(key: &str) -> Option<Scope> {
    part_scope(key.strip_prefix(RESERVED)?)
}

/// Key of a scope's heartbeat.
pub fn heartbeat_key(scope: &Scope) -> String {
    [HEARTBEAT, &scope_part(scope)].concat()
}

/// The scope of a heartbeat's key.
pub fn heartbeat_scope(key: &str) -> Option<Scope> {
    part_scope(key.strip_prefix(HEARTBEAT)?)
}

/// Scope and name of a rule's key.
pub fn rule_of(key: &str) -> Option<(Scope, String)> {
    let (scope, name) = key.strip_prefix(RULE)?.rsplit_once('.')?;
    Some((part_scope(scope)?, untoken(name)?))
}

fn malformed(what: &str, e: impl std::fmt::Display) -> ApiError {
    ApiError::new(Code::Internal, format!("{what} is malformed: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_scopes_and_rules() {
        for (scope, key) in [(Scope::Global, "reserved.global"), (Scope::Bot("a.b".into()), "reserved.bot.a=2Eb")] {
            assert_eq!(reserved_key(&scope), key);
            assert_eq!(reserved_scope(key), Some(scope));
        }
        let scope = Scope::Venue("v".into());
        assert_eq!(rule_of(&haltline_risk::rule_key(&scope, "my rule")), Some((scope, "my rule".into())));
        assert_eq!(rule_of("risk.global.daily_loss"), Some((Scope::Global, "daily_loss".into())));
        for bad in ["risk.global", "risk", "halt.global", "risk.fleet.a.b"] {
            assert_eq!(rule_of(bad), None, "{bad}");
        }
    }
}
