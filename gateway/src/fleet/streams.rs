//! Streams and buckets: what they hold, what they may hold, and their copies.

use haltline_common::{
    Link, js, metrics,
    types::{Names, Timestamp},
};
use serde::Deserialize;
use serde_json::Value;

use crate::app::Inner;

/// What of a stream's information is of interest here.
#[derive(Deserialize)]
pub(super) struct Info {
    config: Config,
    state: js::StreamState,
    cluster: Option<Cluster>,
    /// The server's time: what it stored is compared with its own clock, not with ours.
    pub ts: Timestamp,
}

#[derive(Deserialize)]
struct Config {
    num_replicas: u64,
    max_bytes: i64,
    max_msgs: i64,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    replicas: Vec<Replica>,
}

#[derive(Deserialize)]
struct Replica {
    #[serde(default)]
    current: bool,
    #[serde(default)]
    offline: bool,
}

/// Asks for a stream's information.
pub(super) async fn info(link: &Link, stream: &str) -> Result<Info, String> {
    js::api(link, &format!("STREAM.INFO.{stream}"), &Value::Null).await.map_err(|e| format!("stream {stream}: {e}"))
}

/// All streams of the installation, by names that are the same in each namespace.
fn streams(names: &Names) -> [(&'static str, String); 13] {
    let bucket = |bucket: String| Names::bucket_stream(&bucket);
    [
        ("events", names.events_stream()),
        ("tasks", names.tasks_stream()),
        ("executions", bucket(names.executions_bucket())),
        ("payloads", Names::object_stream(&names.payloads_bucket())),
        ("definitions", bucket(names.definitions_bucket())),
        ("control", bucket(names.control_bucket())),
        ("workers", bucket(names.workers_bucket())),
        ("types", bucket(names.types_bucket())),
        ("audit", names.audit_stream()),
        ("checkpoints", bucket(names.checkpoints_bucket())),
        ("risk", bucket(names.risk_bucket())),
        ("tokens", bucket(names.tokens_bucket())),
        ("access", names.access_stream()),
    ]
}

/// Looks at all of them.
pub(super) async fn look(app: &Inner) -> Result<(), String> {
    let link = &app.link;
    let asked = streams(&link.names).map(|(label, stream)| async move { info(link, &stream).await.map(|info| (label.to_owned(), info)) });
    let all = futures_util::future::try_join_all(asked).await?;
    let of = |value: &dyn Fn(&Info) -> Option<f64>| -> Vec<(String, f64)> {
        all.iter().filter_map(|(label, info)| Some((label.clone(), value(info)?))).collect()
    };
    let limit = |n: i64| (n > 0).then_some(n as f64);
    metrics::STREAM_BYTES.replace(of(&|i| Some(i.state.bytes as f64)));
    metrics::STREAM_BYTES_LIMIT.replace(of(&|i| limit(i.config.max_bytes)));
    metrics::STREAM_MESSAGES.replace(of(&|i| Some(i.state.messages as f64)));
    metrics::STREAM_MESSAGES_LIMIT.replace(of(&|i| limit(i.config.max_msgs)));
    metrics::STREAM_REPLICAS.replace(of(&|i| Some(i.config.num_replicas as f64)));
    metrics::STREAM_REPLICAS_BEHIND.replace(of(&|i| Some(behind(i) as f64)));
    if let Some((_, events)) = all.first() {
        metrics::TAIL_LAG.set(events.state.last_seq.saturating_sub(app.hub.head().borrow().seq));
    }
    Ok(())
}

/// Copies besides the leader's that are offline or not up to date.
fn behind(info: &Info) -> usize {
    let replicas = info.cluster.as_ref().map_or(&[][..], |c| &c.replicas);
    replicas.iter().filter(|r| r.offline || !r.current).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn copies_that_are_offline_or_old_are_behind() {
        let info = |replicas: Value| {
            let text = json!({
                "config": { "num_replicas": 3, "max_bytes": -1, "max_msgs": -1 }, "ts": "2026-11-23T07:34:38.930901246Z",
                "state": { "messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0 },
                "cluster": { "leader": "a", "replicas": replicas },
            });
            serde_json::from_value::<Info>(text).map(|i| behind(&i)).ok()
        };
        assert_eq!(info(json!([{ "name": "b", "current": true, "active": 1 }, { "name": "c", "current": true }])), Some(0));
        assert_eq!(info(json!([{ "name": "b", "current": false }, { "name": "c", "current": true, "offline": true }])), Some(2));
        assert_eq!(info(json!([])), Some(0));
    }
}
