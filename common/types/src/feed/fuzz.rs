//! Arbitrary input: frames, filters and cursors that no client would send. Nothing panics, limits hold as they
//! are written, and a filter says what the same filter says when it is read word by word.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{CONTROL_EVENT, ClientFrame, Cursor, Filter, From, Subject};

/// Texts of a small world, so that filters match often, and some that no id is.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec!["a", "ab", "abc", "b", "ba", "node_started", "node_failed", CONTROL_EVENT]).prop_map(str::to_owned),
        1 => Just(String::new()),
        1 => any::<String>(),
        1 => "[a*é]{0,9}",
        1 => Just("x".repeat(257)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![3 => text().prop_map(Value::from), 2 => text().prop_map(|t| json!({ "prefix": t }))]
}

fn glob() -> impl Strategy<Value = Value> {
    prop_oneof![4 => "[ab*]{1,5}", 2 => prop::sample::select(vec!["node_*", "*_failed", "emergency_*", "*"]).prop_map(str::to_owned), 1 => text()]
        .prop_map(Value::from)
}

/// One level of a filter.
fn level() -> BoxedStrategy<Map<String, Value>> {
    let field = prop::sample::select(vec!["workflow", "bot", "strategy", "execution", "node"]);
    let fields = prop::collection::vec((field, prop::collection::vec(value(), 0..4)), 0..3);
    (fields, prop::option::weighted(0.4, prop::collection::vec(glob(), 0..3)))
        .prop_map(|(fields, kinds)| {
            let mut map: Map<String, Value> = fields.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
            map.extend(kinds.map(|k| ("type".to_owned(), k.into())));
            map
        })
        .boxed()
}

/// A filter as a client writes it, up to ten levels deep.
fn filter() -> impl Strategy<Value = Value> {
    level().prop_map(Value::Object).prop_recursive(10, 90, 4, |inner| {
        let many = prop::collection::vec(inner.clone(), 0..4);
        (level(), prop::option::of(many.clone()), prop::option::of(many), prop::option::of(inner)).prop_map(|(mut map, and, or, not)| {
            map.extend(and.map(|f| ("and".to_owned(), f.into())));
            map.extend(or.map(|f| ("or".to_owned(), f.into())));
            map.extend(not.map(|f| ("not".to_owned(), f)));
            Value::Object(map)
        })
    })
}

/// JSON of any shape, with names that frames have.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        9 => prop::sample::select(vec![
            "t", "v", "rid", "id", "token", "client", "name", "filter", "from", "if_gap", "mode", "cursor", "seq", "last", "since", "live",
            "snapshot", "workflow", "type", "and", "or", "not", "prefix",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
        prop::sample::select(vec!["hello", "sub", "unsub", "auth", "pong", "00000007.9.-", "2026-01-01T00:00:00Z", "reject", "conflate"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// `*` by trying every split: slow, and plain.
fn glob_says(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|n| glob_says(rest, &text[n..])),
        Some((c, rest)) => text.first() == Some(c) && glob_says(rest, &text[1..]),
    }
}

/// What a filter says, read from its JSON as PROTOCOL.md tells it.
fn says(filter: &Value, e: &Subject<'_>) -> bool {
    let list = |name: &str| filter[name].as_array().cloned().unwrap_or_default();
    let chars = |t: &str| t.chars().collect::<Vec<_>>();
    let kinds = list("type");
    let named = kinds.iter().any(|k| glob_says(&chars(k.as_str().unwrap_or_default()), &chars(e.kind)));
    let ids = [("workflow", e.workflow), ("bot", e.bot), ("strategy", e.strategy), ("execution", e.execution), ("node", e.node)];
    let by_ids = ids.iter().all(|(name, have)| {
        let wanted = list(name);
        let one = |w: &Value| match w["prefix"].as_str() {
            Some(prefix) => !have.is_empty() && have.starts_with(prefix),
            None => w.as_str() == Some(have),
        };
        wanted.is_empty() || wanted.iter().any(one)
    });
    let or = list("or");
    (kinds.is_empty() || named)
        && (by_ids || (named && e.kind == CONTROL_EVENT))
        && list("and").iter().all(|f| says(f, e))
        && (or.is_empty() || or.iter().any(|f| says(f, e)))
        && !filter.get("not").is_some_and(|f| says(f, e))
}

/// Levels and parts of a filter, and whether each of its values is within the limits.
fn measure(filter: &Value) -> (usize, usize, bool) {
    let list = |name: &str| filter[name].as_array().cloned().unwrap_or_default();
    let mut fine = list("type").iter().all(|k| k.as_str().is_some_and(|k| k.matches('*').count() <= 4));
    for name in ["workflow", "bot", "strategy", "execution", "node", "type"] {
        let values = list(name);
        let bytes = |v: &Value| v.as_str().or(v["prefix"].as_str()).map_or(0, str::len);
        fine &= values.len() <= 64 && values.iter().all(|v| (1..=256).contains(&bytes(v)));
    }
    let inner = list("and").into_iter().chain(list("or")).chain(filter.get("not").cloned());
    inner.map(|f| measure(&f)).fold((1, 1, fine), |(depth, parts, fine), (d, p, f)| (depth.max(d + 1), parts + p, fine && f))
}

/// Nothing is kept of failures: a case that failed becomes a test by hand.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_filter_says_what_it_says_word_by_word(json in filter(), kind in text(), ids in prop::array::uniform5(text())) {
        let read: Filter = serde_json::from_value(json.clone()).expect("its shape is right");
        let [workflow, bot, strategy, execution, node] = &ids;
        let e = Subject { kind: &kind, workflow, bot, strategy, execution, node };
        prop_assert_eq!(read.matches(&e), says(&json, &e));
        // A snapshot shows at least what events are wanted of; a change of the flag belongs to no execution.
        if kind != CONTROL_EVENT && read.matches(&e) {
            let may = read.may_match(&Subject { kind: "", node: "", ..e });
            prop_assert!(may);
        }
        let (depth, parts, fine) = measure(&json);
        prop_assert_eq!(read.check().is_ok(), depth <= 8 && parts <= 64 && fine, "{} levels, {} parts, {:?}", depth, parts, read.check());
        let again: Filter = serde_json::from_value(serde_json::to_value(&read).expect("writes")).expect("reads what it wrote");
        prop_assert_eq!(again, read);
    }

    #[test]
    fn any_bytes_are_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = serde_json::from_slice::<ClientFrame>(&bytes);
        let _ = serde_json::from_slice::<Filter>(&bytes);
    }

    #[test]
    fn any_json_is_a_frame_or_an_error(json in any_json()) {
        let text = json.to_string();
        match serde_json::from_str::<ClientFrame>(&text) {
            Ok(ClientFrame::Sub(sub)) => {
                let checked = sub.check();
                prop_assert!(checked.as_ref().err().is_none_or(|(_, why)| !why.is_empty()));
                // What passed can be written into a frame as it is.
                prop_assert!(checked.is_err() || sub.id.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\'));
            }
            // A list as well, which the gateway refuses before: see its reader.
            Ok(_) => prop_assert!(json["t"].is_string() || json.is_array()),
            Err(e) => prop_assert!(!e.to_string().is_empty()),
        }
    }

    #[test]
    fn a_plausible_sub_is_read_and_checked(filter in filter(), from in any_json(), id in text(), rid in any::<u64>()) {
        let sub = json!({ "t": "sub", "rid": rid, "id": id, "filter": filter, "from": from });
        if let Ok(ClientFrame::Sub(sub)) = serde_json::from_value::<ClientFrame>(sub) {
            let _ = sub.check();
            prop_assert_eq!(sub.rid, Some(rid));
            prop_assert_eq!(sub.from.recovers(), matches!(sub.from, From::Cursor(_) | From::Seq(_) | From::Since(_)));
        }
    }

    #[test]
    fn a_cursor_is_written_as_it_was_read(text in prop_oneof![any::<String>(), "[0-9a-fA-F]{7,9}[.][+0-9]{0,21}[.]([0-9a-f]{5,7}|-)"]) {
        if let Ok(cursor) = text.parse::<Cursor>() {
            prop_assert_eq!(cursor.to_string(), text);
            // There is a sequence behind every place.
            prop_assert!(cursor.seq.checked_add(1).is_some());
        }
    }
}

#[test]
fn nesting_without_end_is_an_error() {
    for (open, close) in [(r#"{"not":"#, "}"), (r#"{"and":["#, "]}"), ("[", "]")] {
        for n in [9, 64, 127, 128, 10_000] {
            let text = format!("{}{{}}{}", open.repeat(n), close.repeat(n));
            match serde_json::from_str::<Filter>(&text) {
                Ok(filter) => assert!(filter.check().is_err(), "{n} of {open}"),
                Err(e) => assert!(!e.to_string().is_empty()),
            }
            let sub = format!(r#"{{"t":"sub","id":"s","filter":{text}}}"#);
            assert!(serde_json::from_str::<ClientFrame>(&sub).is_err() || n < 128, "{n} of {open}");
        }
    }
}
