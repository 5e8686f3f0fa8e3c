//! The checker on ledgers made by hand.

use serde_json::json;

use super::check::{Halt, Kind, Orders, judge};

const EXECUTION: &str = "exec_w1_00000001";

fn orders() -> Orders {
    let kind = |effect: &str| Kind { bot: "b1".into(), strategy: "s1".into(), effect: effect.into(), allowed: false };
    [("buy", "opens_risk"), ("sell", "reduces_risk")].map(|(node, effect)| (("w1".into(), node.into()), kind(effect))).into()
}

fn halt(scope: &str, level: &str) -> Halt {
    Halt {
        scope: scope.into(),
        level: level.into(),
        stored_ms: 1000,
        confirmed_ms: Some(2000),
        in_time: true,
        lowered_ms: 3000,
        ..Halt::default()
    }
}

/// What is found of one arrival at a time of the minute 1970-01-01T00:00, in milliseconds.
fn found(halt: &Halt, node: &str, at: i64) -> Vec<&'static str> {
    let time = format!("1970-01-01T00:00:{:02}.{:03}Z", at / 1000, at % 1000);
    let line = json!({ "key": format!("{EXECUTION}/{node}"), "execution_id": EXECUTION, "time": time, "outcome": "accepted" });
    judge(std::slice::from_ref(halt), &orders(), &[line], 3000).violations.iter().map(|v| v.kind).collect()
}

#[test]
fn what_arrives_while_a_confirmed_halt_stands_is_found() {
    let h = halt("global", "halt");
    assert_eq!(found(&h, "buy", 2001), ["after_confirmation"]);
    assert_eq!(found(&h, "sell", 2999), ["after_confirmation"]);
    for at in [500, 1500, 2000, 3000, 4000] {
        assert!(found(&h, "buy", at).is_empty(), "at {at}");
    }
}

#[test]
fn only_what_scope_and_level_cover_is_held_against_a_halt() {
    for (scope, level, node, counts) in [
        ("bot:b1", "halt", "buy", true),
        ("bot:b2", "halt", "buy", false),
        ("strategy:s1", "halt", "buy", true),
        ("strategy:s2", "halt", "buy", false),
        ("workflow:w1", "halt", "buy", true),
        ("workflow:w2", "halt", "buy", false),
        ("venue:paper", "halt", "buy", true),
        ("venue:other", "halt", "buy", false),
        ("node_type:paper_order", "halt", "buy", true),
        ("node_type:http", "halt", "buy", false),
        ("global", "alert", "buy", false),
        ("global", "reducing", "buy", true),
        ("global", "reducing", "sell", false),
        ("global", "hold", "sell", true),
        ("global", "shutdown", "sell", true),
    ] {
        assert_eq!(!found(&halt(scope, level), node, 2500).is_empty(), counts, "{scope} {level} {node}");
    }
}

#[test]
fn what_the_confirmation_declared_as_in_flight_may_arrive() {
    let mut h = halt("global", "halt");
    h.declared.insert(format!("{EXECUTION}/buy"));
    assert!(found(&h, "buy", 2500).is_empty());
    assert_eq!(found(&h, "sell", 2500), ["after_confirmation"]);
}

#[test]
fn a_halt_that_is_confirmed_late_or_never_is_found() {
    let of = |h: &Halt| judge(std::slice::from_ref(h), &orders(), &[], 3000).violations.len();
    let mut h = halt("global", "halt");
    h.confirmed_ms = Some(4000);
    assert_eq!(of(&h), 0);
    h.confirmed_ms = Some(4001);
    assert_eq!(of(&h), 1);
    h.healed_ms = 1500;
    assert_eq!(of(&h), 0, "a fault was over only then");
    h.confirmed_ms = None;
    assert_eq!(of(&h), 1);
}

#[test]
fn a_ledger_that_cannot_be_judged_is_found() {
    let unknown = json!({ "key": "exec_w9_00000001/buy", "execution_id": "exec_w9_00000001", "time": "1970-01-01T00:00:01.000Z" });
    let timeless = json!({ "key": format!("{EXECUTION}/buy"), "execution_id": EXECUTION });
    assert_eq!(judge(&[], &orders(), &[unknown, timeless], 0).violations.len(), 2);
}
