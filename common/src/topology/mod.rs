//! Streams, consumers and buckets as data, and `ensure`, which makes the server match them.

mod install;

use std::time::Duration;

use haltline_types::{
    Names,
    catalog::built_in_types,
    limits::{EXECUTION_MS_MAX, MESSAGE_BYTES_MAX},
};
use serde_json::{Map, Value, json};

use crate::{
    Link,
    config::StorageSettings,
    js::{self, ApiFailure},
};

pub use install::remark;

/// The oldest nats-server that works: durability fixes up to it matter.
pub const SERVER_MIN: (u64, u64, u64) = (2, 14, 5);
/// Version of this layout, kept as metadata on every stream and consumer.
pub const LAYOUT: &str = "1";
/// A task that shows no progress for this long is given to another worker.
pub const TASK_ACK_WAIT: Duration = Duration::from_millis(1500);
/// Server-side duplicate window: longer than a coordinator takes to come back, short enough that
/// its memory (about 210 bytes an id) stays bounded.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Tasks waiting; above it dispatch waits instead of growing the stream.
const TASKS_MAX: i64 = 5_000_000;
/// What was written to measure is of no use to anyone.
const PROBES_KEPT: Duration = Duration::from_secs(60);
/// Tasks expire when no execution can wait for them any more.
const TASKS_KEEP: Duration = Duration::from_millis(EXECUTION_MS_MAX + 24 * 3600 * 1000);
/// Seconds that a final record is kept, as metadata of the records' stream: one place for all
/// coordinators, whatever their settings say.
const KEEP_KEY: &str = "haltline.keep_s";
/// A record outlives its last event by this: a key that is used again must not meet old events.
const RECORD_MARGIN: Duration = Duration::from_secs(3600);
/// The record of access is kept for more than a year: what audits ask for.
const ACCESS_KEEP: Duration = Duration::from_secs(400 * 86_400);
/// Presence of a worker that stopped renewing it.
const PRESENCE: Duration = Duration::from_secs(10);

/// Why the server cannot be used, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// Too old.
    #[error("nats-server {found} is too old: Haltline needs {}.{}.{} or newer", SERVER_MIN.0, SERVER_MIN.1, SERVER_MIN.2)]
    TooOld {
        /// What it says it is.
        found: String,
    },
    /// No JetStream.
    #[error("this nats-server has no JetStream for this account: start it with a `jetstream {{ store_dir: ... }}` block ({0})")]
    NoJetStream(String),
    /// A limit of the server.
    #[error("{0}")]
    Limits(String),
    /// Creating or changing something failed.
    #[error("cannot ensure {what}: {source}")]
    Failed {
        /// Which stream, bucket or consumer.
        what: String,
        /// Why.
        source: ApiFailure,
    },
}

/// What `ensure` did to one stream or consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created(String),
    /// It differed.
    Updated(String, Vec<String>),
}

/// A stream as it should be; a bucket is one with KV subjects.
struct StreamSpec {
    name: String,
    config: Value,
}

fn nanos(d: Duration) -> u64 {
    d.as_nanos() as u64
}

fn metadata(what: &str) -> Value {
    json!({ "haltline.layout": LAYOUT, "haltline.holds": what })
}

/// The streams and buckets of an installation.
fn streams(names: &Names, s: &StorageSettings) -> Vec<StreamSpec> {
    let keep = nanos(s.keep.duration());
    let mut records = metadata("records");
    merge(&mut records, json!({ KEEP_KEY: (s.keep.duration() + RECORD_MARGIN).as_secs().to_string() }));
    let bucket = |bucket: String, what: &str, description: &str, extra: Value| {
        let mut config = json!({
            "name": Names::bucket_stream(&bucket),
            "description": description,
            "subjects": [format!("$KV.{bucket}.>")],
            "retention": "limits", "storage": "file", "num_replicas": s.replicas,
            "max_msgs_per_subject": 1, "max_age": 0, "max_bytes": -1, "max_msgs": -1,
            "max_msg_size": MESSAGE_BYTES_MAX + 64 * 1024,
            "discard": "new", "deny_delete": true, "allow_rollup_hdrs": true, "allow_direct": true,
            "allow_atomic": true,
            "duplicate_window": nanos(DUPLICATE_WINDOW),
            "metadata": metadata(what),
        });
        merge(&mut config, extra);
        StreamSpec { name: Names::bucket_stream(&bucket), config }
    };
    vec![
        bucket(
            names.control_bucket(),
            "control",
            "Haltline control flags: halt.global, halt.bot.<id>, ...: HALT stops every side effect in scope, deleted or malformed counts as halted; lease.<worker>.<life>: until when effects may start there, and what it has seen; install: marks this bucket",
            // Never full: a halt must always find room. Leases keep one value a key.
            json!({ "max_msgs_per_subject": 64, "max_bytes": 1u64 << 30 }),
        ),
        StreamSpec {
            name: names.events_stream(),
            config: json!({
                "name": names.events_stream(),
                "description": "Haltline log: every event of every execution, and the commands that decide about them",
                "subjects": [names.events_all()],
                "retention": "limits", "storage": "file", "num_replicas": s.replicas,
                "max_age": keep, "max_bytes": s.events_bytes_max, "max_msgs": -1, "max_msg_size": 1 << 20,
                "discard": "old", "allow_direct": true, "allow_atomic": true, "duplicate_window": nanos(DUPLICATE_WINDOW),
                "metadata": metadata("events"),
            }),
        },
        StreamSpec {
            name: names.tasks_stream(),
            config: json!({
                "name": names.tasks_stream(),
                "description": "Haltline tasks: nodes and segments waiting for a worker; removed when their result is stored",
                "subjects": [names.tasks_all()],
                "retention": "workqueue", "storage": "file", "num_replicas": s.replicas,
                "max_age": nanos(TASKS_KEEP), "max_bytes": s.records_bytes_max, "max_msgs": TASKS_MAX, "max_msg_size": 1 << 20,
                "discard": "new", "allow_direct": true, "allow_atomic": true, "duplicate_window": nanos(DUPLICATE_WINDOW),
                "metadata": metadata("tasks"),
            }),
        },
        StreamSpec {
            name: names.audit_stream(),
            config: json!({
                "name": names.audit_stream(),
                "description": "Haltline audit: every change of a control flag and every confirmed halt; each entry names the digest of the one before it, `haltline audit verify` checks",
                "subjects": [names.audit()],
                "retention": "limits", "storage": "file", "num_replicas": s.replicas,
                // Kept for ever: some hundred bytes a change. Full, nothing is left out to make room.
                "max_age": 0, "max_bytes": 4u64 << 30, "max_msgs": -1, "max_msg_size": 64 * 1024,
                "discard": "new", "deny_delete": true, "deny_purge": true, "allow_direct": true,
                "duplicate_window": nanos(DUPLICATE_WINDOW),
                "metadata": metadata("audit"),
            }),
        },
        StreamSpec {
            name: names.sync_probe_stream(),
            config: json!({
                "name": names.sync_probe_stream(),
                "description": "Haltline measures here when nats-server syncs writes to its disk; the content means nothing",
                "subjects": [names.sync_probe()],
                "retention": "limits", "storage": "file", "num_replicas": s.replicas,
                "max_age": nanos(PROBES_KEPT), "max_bytes": 1 << 20, "max_msgs": 64, "max_msg_size": 1024,
                "discard": "old", "metadata": metadata("measurements"),
            }),
        },
        bucket(
            names.executions_bucket(),
            "records",
            "Haltline executions: one record each, key = execution id; status, results and error",
            // No age: what runs does not expire. Final records carry a time to live of their own.
            json!({ "max_bytes": s.records_bytes_max, "allow_msg_ttl": true, "metadata": records }),
        ),
        StreamSpec {
            name: Names::object_stream(&names.payloads_bucket()),
            config: json!({
                "name": Names::object_stream(&names.payloads_bucket()),
                "description": "Haltline payloads: outputs of nodes that are too large for a message, by reference; name = <execution>/<SHA-256>",
                "subjects": Names::object_subjects(&names.payloads_bucket()),
                "retention": "limits", "storage": "file", "num_replicas": s.replicas,
                // Part of an event: it goes when that is gone.
                "max_age": nanos(s.keep.duration() + RECORD_MARGIN), "max_bytes": s.payloads_bytes_max, "max_msgs": -1,
                // Read from its leader: a copy that is behind would say that there is no such payload.
                "discard": "new", "allow_rollup_hdrs": true, "allow_direct": false, "duplicate_window": nanos(DUPLICATE_WINDOW),
                "metadata": metadata("payloads"),
            }),
        },
        bucket(
            names.definitions_bucket(),
            "definitions",
            "Haltline workflows: <id>.v.<version> is immutable, <id>.latest points at one",
            json!({ "max_bytes": 4u64 << 30 }),
        ),
        bucket(
            names.workers_bucket(),
            "workers",
            "Haltline workers: presence, expires when a worker stops renewing it",
            json!({ "max_age": nanos(PRESENCE), "max_bytes": 256 << 20, "duplicate_window": nanos(PRESENCE) }),
        ),
        bucket(
            names.types_bucket(),
            "types",
            "Haltline node types that workers added to the built-in ones",
            json!({ "max_bytes": 64 << 20 }),
        ),
        bucket(
            names.tokens_bucket(),
            "tokens",
            "Haltline API tokens of gateways: key = token id; only a digest of the secret",
            json!({ "max_bytes": 64 << 20 }),
        ),
        StreamSpec {
            name: names.access_stream(),
            config: json!({
                "name": names.access_stream(),
                "description": "Haltline record of access: refusals and changes at gateways, append only",
                "subjects": [names.access_all()],
                "retention": "limits", "storage": "file", "num_replicas": s.replicas,
                "max_age": nanos(ACCESS_KEEP), "max_bytes": 4u64 << 30, "max_msgs": -1, "max_msg_size": 64 * 1024,
                "discard": "old", "deny_delete": true, "deny_purge": true, "allow_direct": true,
                "duplicate_window": nanos(DUPLICATE_WINDOW),
                "metadata": metadata("access"),
            }),
        },
        bucket(
            names.checkpoints_bucket(),
            "checkpoints",
            "Haltline coordinator checkpoints: up to where the log and the records are taken care of",
            json!({ "max_bytes": 64 << 20 }),
        ),
        bucket(
            names.risk_bucket(),
            "risk",
            "Haltline risk: reserved.<scope> is what actions have reserved and spent, watched what outcomes show, heartbeat.<scope> a dead-man switch",
            json!({ "max_bytes": 1 << 30 }),
        ),
    ]
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(to), Value::Object(from)) = (into, from) {
        to.extend(from);
    }
}

/// How long a final record is kept; `None` if the records' stream does not say: for ever, then.
pub async fn record_keep(link: &Link) -> Result<Option<Duration>, ApiFailure> {
    let info = js::stream_info(link, &Names::bucket_stream(&link.names.executions_bucket())).await?;
    let told = info.config.pointer("/metadata").and_then(|m| m.get(KEEP_KEY)).and_then(Value::as_str);
    Ok(told.and_then(|s| s.parse().ok()).map(Duration::from_secs))
}

/// Checks the server and makes streams, buckets and consumers what they should be. Idempotent.
pub async fn ensure(link: &Link, storage: &StorageSettings) -> Result<Vec<Change>, EnsureError> {
    check_server(link).await?;
    let mut changes = Vec::new();
    let fresh = js::stream_info(link, &link.names.events_stream()).await.is_err_and(|e| e.is_missing());
    for spec in streams(&link.names, storage) {
        let change = ensure_stream(link, &spec).await?;
        if spec.name == Names::bucket_stream(&link.names.control_bucket()) {
            let made = matches!(change, Some(Change::Created(_)));
            let failed = |source| EnsureError::Failed { what: "the control flag".into(), source };
            install::mark(link, made, fresh).await.map_err(failed)?;
        }
        changes.extend(change);
    }
    for kind in built_in_types() {
        changes.extend(ensure_task_consumer(link, &kind.name, Some(storage.replicas)).await?);
    }
    Ok(changes)
}

async fn ensure_stream(link: &Link, spec: &StreamSpec) -> Result<Option<Change>, EnsureError> {
    let failed = |source| EnsureError::Failed { what: format!("stream {}", spec.name), source };
    match js::stream_info(link, &spec.name).await {
        Ok(info) => {
            let mut config = info.config;
            let differing = reconcile(&mut config, &spec.config);
            if differing.is_empty() {
                return Ok(None);
            }
            js::api::<Value>(link, &format!("STREAM.UPDATE.{}", spec.name), &config).await.map_err(failed)?;
            Ok(Some(Change::Updated(spec.name.clone(), differing)))
        }
        Err(e) if e.is_missing() => match js::api::<Value>(link, &format!("STREAM.CREATE.{}", spec.name), &spec.config).await {
            Ok(_) => Ok(Some(Change::Created(spec.name.clone()))),
            // 10058: someone else created it, a little differently, since we asked.
            Err(ApiFailure::Answered { err_code: 10058, .. }) => Ok(None),
            Err(ApiFailure::Answered { description, err_code: 10047 | 10028 | 10023, .. }) => Err(EnsureError::Limits(format!(
                "the server has not enough storage for stream {}: {description}; raise `max_file_store`, or lower storage.events_bytes_max, storage.records_bytes_max and storage.payloads_bytes_max",
                spec.name
            ))),
            Err(e) => Err(failed(e)),
        },
        Err(e) => Err(failed(e)),
    }
}

/// Sets in `current` what `wanted` names and differs; the names of what differed.
fn reconcile(current: &mut Value, wanted: &Value) -> Vec<String> {
    let (Some(to), Some(from)) = (current.as_object_mut(), wanted.as_object()) else { return Vec::new() };
    let mut differing = Vec::new();
    for (key, want) in from {
        if key == "metadata" {
            let have: Map<String, Value> = to.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
            let missing = want.as_object().is_some_and(|w| w.iter().any(|(k, v)| have.get(k) != Some(v)));
            if missing {
                let mut all = have;
                all.extend(want.as_object().cloned().unwrap_or_default());
                to.insert(key.clone(), Value::Object(all));
                differing.push(key.clone());
            }
            continue;
        }
        let zero = |v: &Value| v.is_null() || *v == json!(0) || *v == json!(-1) || *v == json!(false);
        let have = to.get(key).unwrap_or(&Value::Null);
        if have != want && !(zero(have) && zero(want)) {
            to.insert(key.clone(), want.clone());
            differing.push(key.clone());
        }
    }
    differing
}

/// Makes the durable consumer of a node type's tasks; with as many copies as its stream by default.
pub async fn ensure_task_consumer(link: &Link, kind: &str, replicas: Option<usize>) -> Result<Option<Change>, EnsureError> {
    let stream = link.names.tasks_stream();
    let name = Names::task_consumer(kind);
    let filter = link.names.tasks_of_type(kind);
    let wanted = json!({
        "durable_name": name,
        "name": name,
        "description": format!("Haltline tasks of type {kind}, pulled by every worker that runs it"),
        "ack_policy": "explicit",
        "ack_wait": nanos(TASK_ACK_WAIT),
        // One retry authority: attempts are counted in the log, deliveries are not limited.
        "max_deliver": -1,
        "deliver_policy": "all",
        "replay_policy": "instant",
        "filter_subject": filter,
        // What all workers together may hold of one type.
        "max_ack_pending": 20_000,
        "max_waiting": 4096,
        "num_replicas": replicas.unwrap_or(0),
        "metadata": metadata("task consumer"),
    });
    let failed = |source| EnsureError::Failed { what: format!("consumer {name}"), source };
    let current = js::api::<Value>(link, &format!("CONSUMER.INFO.{stream}.{name}"), &Value::Null).await;
    let (config, change) = match current {
        Ok(info) => {
            let mut config = info.get("config").cloned().unwrap_or_default();
            let differing = reconcile(&mut config, &wanted);
            if differing.is_empty() {
                return Ok(None);
            }
            (config, Change::Updated(name.clone(), differing))
        }
        Err(e) if e.is_missing() => (wanted, Change::Created(name.clone())),
        Err(e) => return Err(failed(e)),
    };
    // No action: creates or updates, so that two that ensure at once agree.
    let request = json!({ "stream_name": stream, "config": config });
    js::api::<Value>(link, &format!("CONSUMER.CREATE.{stream}.{name}.{filter}"), &request).await.map_err(failed)?;
    Ok(Some(change))
}

/// Reads `2.15.1` or `2.15.0-RC.1`.
pub fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.trim_start_matches('v').split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

async fn check_server(link: &Link) -> Result<(), EnsureError> {
    let info = link.client.server_info();
    if parse_version(&info.version).is_none_or(|v| v < SERVER_MIN) {
        return Err(EnsureError::TooOld { found: info.version });
    }
    if info.max_payload < 1 << 20 {
        return Err(EnsureError::Limits(format!(
            "the server's max_payload is {} bytes; Haltline's messages need 1048576: set `max_payload: 1MB`",
            info.max_payload
        )));
    }
    js::api::<Value>(link, "INFO", &Value::Null).await.map(|_| ()).map_err(|e| EnsureError::NoJetStream(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare() {
        assert!(parse_version("2.15.1").is_some_and(|v| v >= SERVER_MIN));
        assert!(parse_version("2.9.10").is_some_and(|v| v < SERVER_MIN));
        assert_eq!(parse_version("2.15.0-RC.1"), Some((2, 15, 0)));
        assert_eq!(parse_version("dev"), None);
    }

    #[test]
    fn reconcile_names_what_differs() {
        let mut current = json!({ "max_age": 1, "subjects": ["a"], "max_msgs": -1 });
        let wanted = json!({ "max_age": 2, "subjects": ["a"], "max_msgs": 0, "metadata": { "k": "v" } });
        assert_eq!(reconcile(&mut current, &wanted), ["max_age", "metadata"]);
        assert_eq!(reconcile(&mut current, &wanted), Vec::<String>::new());
    }
}
