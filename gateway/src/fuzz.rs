//! Arbitrary input to what reads it: bodies, headers, definitions, messages of the log. Nothing panics; what is
//! refused is refused with a status of the client's and a sentence.

use axum::http::{HeaderMap, HeaderValue, header};
use haltline_common::{
    definitions,
    types::{
        Millis, Timestamp,
        access::{Role, Scopes},
        control::Scope,
        definition::Definition,
        feed::{Epoch, Tag},
    },
};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{api::body, auth, hub::LogEvent};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

/// JSON of any shape, with names that bodies have.
fn any_json() -> impl Strategy<Value = Value> {
    let names = vec![
        "name",
        "role",
        "scopes",
        "bots",
        "expires_in",
        "id",
        "version",
        "nodes",
        "type",
        "params",
        "inputs",
        "on_error",
        "use",
        "retry",
    ];
    let name = prop_oneof![5 => prop::sample::select(names).prop_map(str::to_owned), 1 => any::<String>()];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec!["admin", "12h", "static", "skip", "-1s", "1e400s", "9999999999d"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// A body like those of the routes: fields that have to be there, durations, objects within.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read only")]
struct Body {
    name: String,
    role: Role,
    #[serde(default, deserialize_with = "haltline_common::types::json::object")]
    scopes: Scopes,
    expires_in: Option<Millis>,
    nodes: Option<Value>,
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn any_body_is_read_or_refused_by_name(json in any_json(), bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        for bytes in [json.to_string().into_bytes(), bytes] {
            if let Err(problem) = body::<Body>(&bytes) {
                prop_assert!(matches!(problem.status(), 400 | 413 | 422) && !problem.detail().is_empty(), "{:?}", problem);
            }
        }
    }

    #[test]
    fn any_text_is_a_definition_or_an_error(
        text in prop_oneof![any::<String>(), "[-a-z:{}\\[\\]\"'&*!|>#%@ \n\t0-9]{0,60}", any_json().prop_map(|v| v.to_string())],
        nodes in any_json(),
    ) {
        for text in [text, json!({ "id": "w", "version": "1", "nodes": nodes }).to_string(), json!({ "id": "w", "version": "1", "nodes": [nodes] }).to_string()] {
            match definitions::parse(&text) {
                Ok(d) => {
                    let written = serde_json::to_value(&d).expect("writes");
                    let again: Definition = serde_json::from_value(written.clone()).expect("reads what it wrote");
                    prop_assert_eq!(serde_json::to_value(again).expect("writes"), written);
                }
                Err(e) => prop_assert!(!e.message.is_empty()),
            }
        }
    }

    #[test]
    fn any_header_is_a_token_a_cookie_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "(haltline_session|a)?[=; ]{0,3}[a-z=;]{0,9}") {
        for bytes in [bytes, text.into_bytes()] {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.clone()), (header::COOKIE, value)]);
                prop_assert!(auth::cookie(&headers).is_none_or(|c| !c.is_empty()));
            }
        }
    }

    #[test]
    fn any_text_is_a_scope_a_time_a_duration_or_an_error(text in prop_oneof![any::<String>(), "(bot|global|venue):[a-z.:]{0,5}", "-?[0-9.e+-]{0,30}(ms|s|m|h|d)", "[0-9]{4,6}-[0-9]{2}-[0-9]{2}T[0-9:.]{0,14}(Z|[+-][0-9:]{5})"]) {
        if let Ok(scope) = text.parse::<Scope>() {
            prop_assert_eq!(Scope::from_key(&scope.key()), Some(scope.clone()));
            prop_assert_eq!(scope.to_string().parse::<Scope>(), Ok(scope));
        }
        if let Ok(at) = Timestamp::parse(&text) {
            prop_assert_eq!(at.millis_since(at), 0);
            let _ = (at.millis_since(Timestamp(0)), Timestamp(0).millis_since(at), at.to_string());
        }
        if let Ok(ms) = text.parse::<Millis>() {
            prop_assert_eq!(ms.to_string().parse::<Millis>(), Ok(ms));
        }
    }

    /// Others may write to the log: what is no event is left out, what is one stays as it is, on one line.
    #[test]
    fn any_message_of_the_log_is_taken_apart(bytes in prop::collection::vec(any::<u8>(), 0..80), lines in prop::collection::vec(any_json(), 0..4)) {
        let told: Vec<String> = lines.iter().map(|d| json!({ "type": "t", "id": "i", "d": d }).to_string()).collect();
        let mixed = [bytes.clone(), b"\n".to_vec(), told.join("\n").into_bytes()].concat();
        let good = LogEvent::read(Epoch(1), 7, &mixed).into_iter().flatten().collect::<Vec<_>>();
        prop_assert!(good.len() >= lines.len());
        for (event, line) in good.iter().rev().zip(told.iter().rev()) {
            prop_assert_eq!(event.json(), line.as_str());
        }
        prop_assert!(good.iter().all(|e| !e.frame().contains(['\n', '\r'])));
        prop_assert!(lines.is_empty() || good.last().is_some_and(|e| e.cursor.tag == Some(Tag::of(&mixed)) && e.cursor.seq == 7));
        let _ = LogEvent::read(Epoch(1), 0, &bytes);
    }
}
