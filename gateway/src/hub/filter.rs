//! Which events a subscription wants: fields AND, values OR.

use serde::Deserialize;

use super::LogEvent;

/// Values of one field: each event is compared with all of them.
const VALUES_MAX: usize = 64;
/// Bytes of a value: an execution's id has its workflow's in it.
const VALUE_BYTES_MAX: usize = 256;
/// The event that concerns everyone.
const CONTROL: &str = "emergency_state_changed";

/// A filter; an empty list matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Filter {
    workflow: Vec<String>,
    bot: Vec<String>,
    strategy: Vec<String>,
    execution: Vec<String>,
    /// Event types; `node_*` means all that begin so.
    #[serde(rename = "type")]
    kind: Vec<String>,
}

impl Filter {
    /// Why it cannot be used, if it cannot.
    pub fn check(&self) -> Result<(), String> {
        let fields = [
            ("workflow", &self.workflow),
            ("bot", &self.bot),
            ("strategy", &self.strategy),
            ("execution", &self.execution),
            ("type", &self.kind),
        ];
        for (name, values) in fields {
            if values.len() > VALUES_MAX {
                return Err(format!("filter.{name} has {} values, more than {VALUES_MAX}", values.len()));
            }
            if values.iter().any(|v| v.is_empty() || v.len() > VALUE_BYTES_MAX) {
                return Err(format!("filter.{name}: a value must have 1 to {VALUE_BYTES_MAX} bytes"));
            }
        }
        match self.kind.iter().find(|k| k.find('*').is_some_and(|at| at + 1 != k.len())) {
            Some(k) => Err(format!("filter.type: `{k}`: `*` is allowed at the end only")),
            None => Ok(()),
        }
    }

    /// Whether it wants this event. A missing id does not match; a change of the control flag
    /// reaches whoever asked for that type, whatever else the filter says.
    pub fn matches(&self, e: &LogEvent) -> bool {
        let kind = self.kind.iter().any(|k| match k.strip_suffix('*') {
            Some(prefix) => e.kind.starts_with(prefix),
            None => **k == *e.kind,
        });
        if kind && &*e.kind == CONTROL {
            return true;
        }
        let one = |wanted: &[String], have: &str| wanted.is_empty() || wanted.iter().any(|w| w == have);
        (kind || self.kind.is_empty())
            && one(&self.workflow, &e.workflow)
            && one(&self.bot, &e.bot)
            && one(&self.strategy, &e.strategy)
            && one(&self.execution, &e.execution)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> LogEvent {
        LogEvent::read(1, json.as_bytes()).expect("reads")
    }
    fn filter(json: &str) -> Filter {
        serde_json::from_str(json).expect("parses")
    }

    #[test]
    fn fields_and_values_or() {
        let e = event(r#"{"type":"node_started","id":"x","execution_id":"e1","workflow_id":"w1","bot_id":"b1","strategy_id":""}"#);
        for (f, want) in [
            ("{}", true),
            (r#"{"workflow":["w0","w1"]}"#, true),
            (r#"{"workflow":["w0"]}"#, false),
            (r#"{"workflow":["w1"],"bot":["b2"]}"#, false),
            (r#"{"strategy":["s"]}"#, false),
            (r#"{"type":["node_*"]}"#, true),
            (r#"{"type":["node_started"],"execution":["e1"]}"#, true),
            (r#"{"type":["execution_*","*"]}"#, true),
            (r#"{"type":["node"]}"#, false),
        ] {
            assert_eq!(filter(f).matches(&e), want, "{f}");
        }
    }

    #[test]
    fn control_changes_reach_who_asked() {
        let e = event(r#"{"type":"emergency_state_changed","id":"control/halt.global/2","bot_id":"","strategy_id":""}"#);
        assert!(filter("{}").matches(&e));
        assert!(filter(r#"{"workflow":["w"],"type":["emergency_state_changed"]}"#).matches(&e));
        assert!(!filter(r#"{"workflow":["w"]}"#).matches(&e));
        assert!(!filter(r#"{"type":["node_*"]}"#).matches(&e));
    }

    #[test]
    fn bad_filters_are_told() {
        assert!(filter(r#"{"type":["n*de"]}"#).check().is_err());
        assert!(filter(r#"{"bot":[""]}"#).check().is_err());
        assert!(filter(r#"{"type":["node_*"]}"#).check().is_ok());
        assert!(serde_json::from_str::<Filter>(r#"{"worklow":["w"]}"#).is_err());
    }
}
