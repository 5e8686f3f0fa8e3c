//! Whether streams and consumers are there and are what Haltline makes them.

use haltline_common::{
    Link,
    config::StorageSettings,
    js::{self, ApiFailure},
    topology::LAYOUT,
    types::{Names, catalog::built_in_types},
};
use serde_json::Value;

use super::{Finding, Level};

/// A stream as it is on the server.
pub struct Stream {
    pub name: String,
    pub storage: String,
    pub replicas: u64,
}

/// Checks every stream and bucket; those that are there.
pub async fn streams(link: &Link, storage: &StorageSettings, findings: &mut Vec<Finding>) -> Vec<Stream> {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    let names = expected(&link.names);
    for name in &names {
        match js::stream_info(link, name).await {
            Ok(info) => {
                let text = |key: &str| info.config.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                let replicas = info.config.get("num_replicas").and_then(Value::as_u64).unwrap_or(1);
                if replicas != storage.replicas as u64 {
                    wrong.push(format!("stream {name} has {replicas} replicas, settings say {}", storage.replicas));
                }
                wrong.extend(foreign(&format!("stream {name}"), &info.config));
                found.push(Stream { name: name.clone(), storage: text("storage"), replicas });
            }
            Err(e) => wrong.push(missing(&format!("stream {name}"), &e)),
        }
    }
    if found.is_empty() {
        let text = format!("there is no installation `{}` here: start a coordinator, or run `haltline ensure`", link.names.namespace());
        findings.push(Finding::new(Level::Fail, "streams", text));
    } else {
        report(findings, "streams", &format!("all {} are there", names.len()), wrong);
    }
    found
}

/// Checks the consumer of every built-in node type.
pub async fn consumers(link: &Link, findings: &mut Vec<Finding>) {
    let stream = link.names.tasks_stream();
    let types = built_in_types();
    let mut wrong = Vec::new();
    for kind in &types {
        let name = Names::task_consumer(&kind.name);
        match js::api::<Value>(link, &format!("CONSUMER.INFO.{stream}.{name}"), &Value::Null).await {
            Ok(info) => wrong.extend(foreign(&format!("consumer {name}"), info.get("config").unwrap_or(&Value::Null))),
            Err(e) => wrong.push(missing(&format!("consumer {name}"), &e)),
        }
    }
    report(findings, "consumers", &format!("all {} are there", types.len()), wrong);
}

fn expected(names: &Names) -> Vec<String> {
    let buckets = [
        names.control_bucket(),
        names.executions_bucket(),
        names.definitions_bucket(),
        names.workers_bucket(),
        names.types_bucket(),
        names.checkpoints_bucket(),
        names.risk_bucket(),
    ];
    [names.events_stream(), names.tasks_stream(), names.audit_stream(), names.sync_probe_stream()]
        .into_iter()
        .chain(buckets.iter().map(|b| Names::bucket_stream(b)))
        .collect()
}

/// Something that another version made, or that was made by hand.
fn foreign(what: &str, config: &Value) -> Option<String> {
    let layout = config.pointer("/metadata/haltline.layout").and_then(Value::as_str);
    match layout {
        Some(LAYOUT) => None,
        Some(other) => Some(format!("{what} has layout {other}, this version makes {LAYOUT}")),
        None => Some(format!("{what} was not made by Haltline")),
    }
}

fn missing(what: &str, e: &ApiFailure) -> String {
    if e.is_missing() { format!("{what} is missing") } else { format!("{what}: {e}") }
}

fn report(findings: &mut Vec<Finding>, about: &'static str, fine: &str, wrong: Vec<String>) {
    if wrong.is_empty() {
        findings.push(Finding::new(Level::Ok, about, fine));
    }
    findings.extend(wrong.into_iter().map(|w| Finding::new(Level::Fail, about, format!("{w}; `haltline ensure` puts it right"))));
}
