//! What is lost if a machine dies, in plain words. That depends on copies and on when the server
//! syncs to disk; the latter is not told to clients, so it is read from elsewhere or unknown.

use std::{path::Path, time::Duration};

use haltline_common::{Link, sync as measuring};
use haltline_server::{CONF_FILE, sync_interval_of};
use serde_json::Value;

use super::{Finding, Level, installation::Stream};

/// nats-server's `sync_interval` when its configuration sets none.
const DEFAULT_SYNC: &str = "2 minutes";

/// When the server syncs its files to disk.
#[derive(Debug, PartialEq)]
pub enum Sync {
    /// Before it acknowledges a write.
    Always,
    /// Every so often.
    Every(String),
    /// Not known; why.
    Unknown(String),
}

/// Finds out, from the monitoring endpoint or the configuration in a folder.
pub async fn sync(monitor: Option<&str>, data_dir: Option<&Path>) -> Sync {
    if let Some(url) = monitor {
        return from_monitor(url).await.unwrap_or_else(|why| Sync::Unknown(format!("{url} does not tell: {why}")));
    }
    if let Some(dir) = data_dir {
        let file = dir.join(CONF_FILE);
        return match std::fs::read_to_string(&file) {
            Ok(text) => from_conf(&text),
            Err(e) => Sync::Unknown(format!("cannot read {}: {e}", file.display())),
        };
    }
    Sync::Unknown("clients are not told; name --monitor or --data-dir".into())
}

fn from_conf(text: &str) -> Sync {
    match sync_interval_of(text) {
        Some(always) if always == "always" => Sync::Always,
        Some(interval) => Sync::Every(interval),
        None => Sync::Every(DEFAULT_SYNC.into()),
    }
}

async fn from_monitor(url: &str) -> Result<Sync, String> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().map_err(|e| e.to_string())?;
    let url = format!("{}/jsz?config=true", url.trim_end_matches('/'));
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(|e| e.to_string())?;
    let body: Value = answer.json().await.map_err(|e| e.to_string())?;
    from_jsz(&body)
}

fn from_jsz(body: &Value) -> Result<Sync, String> {
    let config = body.get("config").ok_or("no JetStream configuration in the answer")?;
    if config.get("sync_always").and_then(Value::as_bool) == Some(true) {
        return Ok(Sync::Always);
    }
    match config.get("sync_interval").and_then(Value::as_u64) {
        Some(nanos) => Ok(Sync::Every(format!("{:?}", Duration::from_nanos(nanos)))),
        None => Ok(Sync::Every(DEFAULT_SYNC.into())),
    }
}

/// What writes cost here, and what follows for how they are sent.
pub async fn measured(link: &Link) -> Finding {
    match measuring::measure(link).await {
        Ok(m) => {
            let follows = match m.sync {
                measuring::Sync::Always => "the server syncs every write, as far as time tells: services group them",
                _ => "the server syncs later, or its disk syncs at no cost: services send them one by one",
            };
            Finding::new(Level::Ok, "writes", format!("{m}; {follows}"))
        }
        Err(e) => Finding::new(Level::Warn, "writes", format!("cannot be measured: {e}")),
    }
}

/// What that means together with the streams' copies.
pub fn findings(streams: &[Stream], sync: &Sync) -> Vec<Finding> {
    let mut findings = Vec::new();
    let in_memory: Vec<&str> = streams.iter().filter(|s| s.storage != "file").map(|s| s.name.as_str()).collect();
    if !in_memory.is_empty() {
        let text = format!("kept in memory only, lost when nats-server ends: {}", in_memory.join(", "));
        findings.push(Finding::new(Level::Fail, "durability", text));
    }
    let Some(copies) = streams.iter().map(|s| s.replicas).min() else { return findings };
    let (level, text) = words(copies, sync);
    findings.push(Finding::new(level, "durability", text));
    findings
}

fn words(copies: u64, sync: &Sync) -> (Level, String) {
    let (when, lost) = match sync {
        Sync::Always => {
            let kept = "every acknowledged write is on disk; power loss loses nothing";
            return (Level::Ok, format!("{}, synced before each acknowledgement: {kept}", copies_in_words(copies)));
        }
        Sync::Every(interval) => (format!("synced to disk every {interval}"), interval.clone()),
        Sync::Unknown(why) => {
            (format!("when it is synced to disk is unknown ({why}; the default is every {DEFAULT_SYNC})"), "that interval".to_owned())
        }
    };
    if copies > 1 {
        let kept = "losing one machine loses nothing; losing power on most of them at once may lose the last writes";
        return (Level::Ok, format!("{}, {when}: {kept}", copies_in_words(copies)));
    }
    let kept = format!(
        "a killed nats-server loses nothing, but power loss or a crashed machine may lose acknowledged writes of up to {lost}, \
         a halt among them; set `sync_interval: always`, or storage.replicas = 3 on a cluster"
    );
    (Level::Warn, format!("{}, {when}: {kept}", copies_in_words(copies)))
}

fn copies_in_words(copies: u64) -> String {
    if copies == 1 { "one copy".into() } else { format!("{copies} copies") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_sync_interval_is_found() {
        assert_eq!(from_conf("jetstream {\n  sync_interval: \"always\"\n}"), Sync::Always);
        assert_eq!(from_conf("jetstream {\n  sync_interval: \"10s\"\n}"), Sync::Every("10s".into()));
        assert_eq!(from_conf(""), Sync::Every(DEFAULT_SYNC.into()));
        assert_eq!(from_jsz(&json!({ "config": { "sync_always": true, "sync_interval": 1 } })), Ok(Sync::Always));
        assert_eq!(from_jsz(&json!({ "config": { "sync_interval": 120_000_000_000u64 } })), Ok(Sync::Every("120s".into())));
        assert!(from_jsz(&json!({})).is_err());
    }

    #[test]
    fn only_a_single_unsynced_copy_is_a_warning() {
        assert_eq!(words(1, &Sync::Always).0, Level::Ok);
        assert_eq!(words(3, &Sync::Every("2m".into())).0, Level::Ok);
        assert_eq!(words(1, &Sync::Every("2m".into())).0, Level::Warn);
        assert!(words(1, &Sync::Unknown("why".into())).1.contains("2 minutes"));
    }
}
