//! Which events a subscription wants. Fields AND, values OR; `and`, `or` and `not` nest. A missing id
//! matches nothing.

use std::{borrow::Cow, fmt};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor},
};

use super::CONTROL_EVENT;

/// Values of one field: each event is compared with all of them.
const VALUES_MAX: usize = 64;
/// Bytes of a value: an execution's id has its workflow's in it.
const VALUE_BYTES_MAX: usize = 256;
/// Filters within a filter, all levels together: an event may be compared with each.
const PARTS_MAX: usize = 64;
/// Levels of `and`, `or` and `not`.
const DEPTH_MAX: usize = 8;
/// Stars of a type: matching takes longer with each.
const STARS_MAX: usize = 4;

/// Fields of a filter.
const NAMES: &[&str] = &["workflow", "bot", "strategy", "execution", "node", "type", "and", "or", "not"];

/// What a filter looks at; empty where an event has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The type.
    pub kind: &'a str,
    /// The execution.
    pub execution: &'a str,
    /// The workflow.
    pub workflow: &'a str,
    /// The bot.
    pub bot: &'a str,
    /// The strategy.
    pub strategy: &'a str,
    /// The node.
    pub node: &'a str,
}

/// A value of a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Match {
    /// Exactly this.
    Is(String),
    /// Whatever begins so.
    Prefix(Prefix),
}

/// See [`Match::Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prefix {
    /// The beginning.
    pub prefix: String,
}

impl Match {
    fn text(&self) -> &str {
        match self {
            Self::Is(text) | Self::Prefix(Prefix { prefix: text }) => text,
        }
    }
    fn matches(&self, have: &str) -> bool {
        match self {
            Self::Is(text) => text == have,
            Self::Prefix(Prefix { prefix }) => !have.is_empty() && have.starts_with(prefix),
        }
    }
}

/// A filter. What is absent does not restrict; `{}` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Workflow ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workflow: Vec<Match>,
    /// Bot ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bot: Vec<Match>,
    /// Strategy ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strategy: Vec<Match>,
    /// Execution ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub execution: Vec<Match>,
    /// Node ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node: Vec<Match>,
    /// Event types; `*` stands for any run of letters: `node_*`, `*_failed`.
    #[serde(rename = "type", skip_serializing_if = "Vec::is_empty")]
    pub kind: Vec<String>,
    /// All of these as well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub and: Vec<Filter>,
    /// One of these as well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub or: Vec<Filter>,
    /// And not this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not: Option<Box<Filter>>,
}

// Read by hand: derived code takes a list as well, field by field, and an empty one as a filter that shows everything.

impl<'de> Deserialize<'de> for Match {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Match;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or {\"prefix\": text}")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Match, E> {
                Ok(Match::Is(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Match, A::Error> {
                let mut prefix = None;
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    if name != "prefix" {
                        return Err(A::Error::unknown_field(&name, &["prefix"]));
                    }
                    prefix = Some(map.next_value()?);
                }
                prefix.map(|prefix| Match::Prefix(Prefix { prefix })).ok_or_else(|| A::Error::missing_field("prefix"))
            }
        }
        d.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Filter;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a filter, which is an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Filter, A::Error> {
                let (mut f, mut given) = (Filter::default(), Vec::new());
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    let Some(known) = NAMES.iter().find(|known| **known == name) else {
                        return Err(A::Error::unknown_field(&name, NAMES));
                    };
                    if given.contains(known) {
                        return Err(A::Error::duplicate_field(known));
                    }
                    given.push(*known);
                    match *known {
                        "workflow" => f.workflow = map.next_value()?,
                        "bot" => f.bot = map.next_value()?,
                        "strategy" => f.strategy = map.next_value()?,
                        "execution" => f.execution = map.next_value()?,
                        "node" => f.node = map.next_value()?,
                        "type" => f.kind = map.next_value()?,
                        "and" => f.and = map.next_value()?,
                        "or" => f.or = map.next_value()?,
                        _ => f.not = map.next_value()?,
                    }
                }
                Ok(f)
            }
        }
        d.deserialize_map(Read)
    }
}

impl Filter {
    /// Why it cannot be used, if it cannot: a sentence that names the field.
    ///
    /// # Errors
    /// See there.
    pub fn check(&self) -> Result<(), String> {
        let mut parts = 0;
        self.check_at("filter", 1, &mut parts)
    }

    fn check_at(&self, at: &str, depth: usize, parts: &mut usize) -> Result<(), String> {
        *parts += 1;
        if depth > DEPTH_MAX {
            return Err(format!("{at}: filters nest deeper than {DEPTH_MAX}"));
        }
        if *parts > PARTS_MAX {
            return Err(format!("{at}: a filter has more than {PARTS_MAX} parts"));
        }
        for (name, values) in self.fields() {
            sizes(at, name, values.iter().map(Match::text))?;
        }
        sizes(at, "type", self.kind.iter().map(String::as_str))?;
        if let Some(k) = self.kind.iter().find(|k| k.bytes().filter(|b| *b == b'*').count() > STARS_MAX) {
            return Err(format!("{at}.type: `{k}` has more than {STARS_MAX} `*`"));
        }
        for (i, f) in self.and.iter().enumerate() {
            f.check_at(&format!("{at}.and[{i}]"), depth + 1, parts)?;
        }
        for (i, f) in self.or.iter().enumerate() {
            f.check_at(&format!("{at}.or[{i}]"), depth + 1, parts)?;
        }
        self.not.as_ref().map_or(Ok(()), |f| f.check_at(&format!("{at}.not"), depth + 1, parts))
    }

    fn fields(&self) -> [(&'static str, &[Match]); 5] {
        [
            ("workflow", &self.workflow),
            ("bot", &self.bot),
            ("strategy", &self.strategy),
            ("execution", &self.execution),
            ("node", &self.node),
        ]
    }

    /// Whether it wants this event. A change of the control flag has no ids: it reaches whoever asks
    /// for that type, whatever ids the same part of the filter names.
    pub fn matches(&self, e: &Subject<'_>) -> bool {
        let kind = self.kind.iter().any(|k| glob(k.as_bytes(), e.kind.as_bytes()));
        let one = |wanted: &[Match], have: &str| wanted.is_empty() || wanted.iter().any(|w| w.matches(have));
        let ids = || {
            one(&self.workflow, e.workflow)
                && one(&self.bot, e.bot)
                && one(&self.strategy, e.strategy)
                && one(&self.execution, e.execution)
                && one(&self.node, e.node)
        };
        (kind || self.kind.is_empty())
            && ((kind && e.kind == CONTROL_EVENT) || ids())
            && self.and.iter().all(|f| f.matches(e))
            && (self.or.is_empty() || self.or.iter().any(|f| f.matches(e)))
            && self.not.as_ref().is_none_or(|f| !f.matches(e))
    }

    /// Whether it may want events of something with these ids, whatever their type and node.
    pub fn may_match(&self, e: &Subject<'_>) -> bool {
        self.some(e, false)
    }

    /// Whether it wants an event whose type and node are not known: surely, or else maybe.
    fn some(&self, e: &Subject<'_>, surely: bool) -> bool {
        let one = |wanted: &[Match], have: &str| wanted.is_empty() || wanted.iter().any(|w| w.matches(have));
        (!surely || (self.kind.is_empty() && self.node.is_empty()))
            && one(&self.workflow, e.workflow)
            && one(&self.bot, e.bot)
            && one(&self.strategy, e.strategy)
            && one(&self.execution, e.execution)
            && self.and.iter().all(|f| f.some(e, surely))
            && (self.or.is_empty() || self.or.iter().any(|f| f.some(e, surely)))
            && self.not.as_ref().is_none_or(|f| !f.some(e, !surely))
    }

    /// The executions that it names exactly, if nothing but these can match; for snapshots.
    pub fn executions(&self) -> Option<Vec<&str>> {
        let exact = |m: &Match| matches!(m, Match::Is(_));
        (!self.execution.is_empty() && self.execution.iter().all(exact)).then(|| self.execution.iter().map(Match::text).collect())
    }
}

fn sizes<'a>(at: &str, name: &str, values: impl ExactSizeIterator<Item = &'a str>) -> Result<(), String> {
    if values.len() > VALUES_MAX {
        return Err(format!("{at}.{name} has {} values, more than {VALUES_MAX}", values.len()));
    }
    for value in values {
        if value.is_empty() || value.len() > VALUE_BYTES_MAX {
            return Err(format!("{at}.{name}: a value must have 1 to {VALUE_BYTES_MAX} bytes"));
        }
    }
    Ok(())
}

/// `*` stands for any run of bytes. Time is bounded by the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == text.get(t) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            // The last star takes one more.
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: Subject<'_> = Subject { kind: "node_started", execution: "exec_w1_1", workflow: "w1", bot: "b1", strategy: "", node: "price" };

    fn filter(json: &str) -> Filter {
        serde_json::from_str(json).expect("parses")
    }

    #[test]
    fn fields_and_values_or() {
        for (f, want) in [
            ("{}", true),
            (r#"{"workflow":["w0","w1"]}"#, true),
            (r#"{"workflow":["w0"]}"#, false),
            (r#"{"workflow":["w1"],"bot":["b2"]}"#, false),
            (r#"{"strategy":["s"]}"#, false),
            (r#"{"strategy":[{"prefix":"s"}]}"#, false),
            (r#"{"workflow":[{"prefix":"w"}]}"#, true),
            (r#"{"execution":[{"prefix":"exec_w1_"}],"node":["price"]}"#, true),
            (r#"{"execution":[{"prefix":"exec_w2_"}]}"#, false),
            (r#"{"type":["node_*"]}"#, true),
            (r#"{"type":["*_started"]}"#, true),
            (r#"{"type":["n*_st*d"]}"#, true),
            (r#"{"type":["*"]}"#, true),
            (r#"{"type":["node"]}"#, false),
            (r#"{"type":["*_failed","execution_*"]}"#, false),
        ] {
            assert_eq!(filter(f).matches(&E), want, "{f}");
        }
    }

    #[test]
    fn filters_nest() {
        for (f, want) in [
            (r#"{"or":[{"bot":["b2"]},{"bot":["b1"]}]}"#, true),
            (r#"{"or":[{"bot":["b2"]},{"bot":["b3"]}]}"#, false),
            (r#"{"and":[{"bot":["b1"]},{"workflow":["w1"]}]}"#, true),
            (r#"{"and":[{"bot":["b1"]},{"workflow":["w2"]}]}"#, false),
            (r#"{"not":{"type":["*_started"]}}"#, false),
            (r#"{"not":{"type":["*_failed"]}}"#, true),
            (r#"{"bot":["b1"],"not":{"or":[{"node":["price"]},{"node":["buy"]}]}}"#, false),
            (r#"{"not":{"not":{"bot":["b1"]}}}"#, true),
        ] {
            assert_eq!(filter(f).matches(&E), want, "{f}");
        }
    }

    #[test]
    fn control_changes_reach_who_asked() {
        let e = Subject { kind: CONTROL_EVENT, ..Subject::default() };
        assert!(filter("{}").matches(&e));
        assert!(filter(r#"{"workflow":["w"],"type":["emergency_state_changed"]}"#).matches(&e));
        assert!(!filter(r#"{"workflow":["w"]}"#).matches(&e));
        assert!(!filter(r#"{"type":["node_*"]}"#).matches(&e));
        assert!(filter(r#"{"or":[{"workflow":["w"]},{"type":["emergency_*"]}]}"#).matches(&e));
    }

    #[test]
    fn bad_filters_are_told() {
        let many = serde_json::json!({ "bot": vec!["b"; VALUES_MAX + 1] }).to_string();
        let wide = serde_json::json!({ "or": vec![serde_json::json!({}); PARTS_MAX] }).to_string();
        let deep = format!("{}{{}}{}", r#"{"not":"#.repeat(DEPTH_MAX), "}".repeat(DEPTH_MAX));
        for (bad, names) in [
            (r#"{"type":["*a*b*c*d*"]}"#, "filter.type"),
            (r#"{"bot":[""]}"#, "filter.bot"),
            (r#"{"or":[{},{"bot":[{"prefix":""}]}]}"#, "filter.or[1].bot"),
            (&many, "filter.bot"),
            (&wide, "parts"),
            (&deep, "deeper"),
        ] {
            let why = filter(bad).check().expect_err("is refused");
            assert!(why.contains(names), "{why}");
        }
        assert!(filter(r#"{"type":["node_*"],"not":{"bot":["b"]}}"#).check().is_ok());
        let unknown = serde_json::from_str::<Filter>(r#"{"worklow":["w"]}"#).expect_err("is refused").to_string();
        assert!(unknown.contains("worklow"), "{unknown}");
        let wrong = serde_json::from_str::<Filter>(r#"{"bot":[7]}"#).expect_err("is refused").to_string();
        assert!(wrong.contains("prefix"), "{wrong}");
        for list in ["[]", r#"[["w"]]"#, r#"{"not":[]}"#, r#"{"and":[[]]}"#, r#"{"bot":[["b"]]}"#, r#"{"bot":["b"],"bot":[]}"#] {
            assert!(serde_json::from_str::<Filter>(list).is_err(), "{list}");
        }
    }

    #[test]
    fn what_may_match_is_told_without_a_type() {
        let e = Subject { kind: "", node: "", ..E };
        for (f, want) in [
            ("{}", true),
            (r#"{"type":["node_*"],"node":["x"]}"#, true),
            (r#"{"type":["node_*"],"bot":["b2"]}"#, false),
            (r#"{"not":{"type":["*_failed"]}}"#, true),
            (r#"{"not":{"bot":["b1"]}}"#, false),
            (r#"{"not":{"bot":["b1"],"type":["node_*"]}}"#, true),
            (r#"{"not":{"not":{"type":["node_*"],"bot":["b2"]}}}"#, false),
            (r#"{"or":[{"bot":["b2"]},{"workflow":["w1"]}]}"#, true),
        ] {
            assert_eq!(filter(f).may_match(&e), want, "{f}");
        }
    }

    #[test]
    fn globs() {
        for (p, t, want) in [
            ("", "", true),
            ("*", "", true),
            ("a*", "", false),
            ("*a", "bba", true),
            ("*a", "bab", false),
            ("a**b", "ab", true),
            ("*ab*", "aab", true),
        ] {
            assert_eq!(glob(p.as_bytes(), t.as_bytes()), want, "{p} {t}");
        }
    }
}
