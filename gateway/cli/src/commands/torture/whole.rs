//! Whether a cluster is whole again: who restarts its servers one after the other waits for that in between.

use std::time::Duration;

use haltline_common::{Link, js};
use serde_json::Value;

/// How often it is asked.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Waits until every stream, and every consumer of tasks, has a leader and all its copies. Whether that was within `limit`.
pub async fn wait(link: &Link, limit: Duration) -> bool {
    let whole = async {
        while !is_whole(link).await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(limit, whole).await.is_ok()
}

async fn is_whole(link: &Link) -> bool {
    let of_tasks = format!("CONSUMER.LIST.{}", link.names.tasks_stream());
    for (subject, what) in [("STREAM.LIST", "streams"), (of_tasks.as_str(), "consumers")] {
        let Ok(listed) = js::api::<Value>(link, subject, &Value::Null).await else { return false };
        // Those without a leader do not answer, and are named.
        let missing = listed["missing"].as_array().is_some_and(|missing| !missing.is_empty());
        let whole = listed[what].as_array().is_some_and(|all| !all.is_empty() && all.iter().all(has_all_copies));
        if missing || !whole {
            return false;
        }
    }
    true
}

fn has_all_copies(info: &Value) -> bool {
    let cluster = &info["cluster"];
    let led = cluster["leader"].as_str().is_some_and(|leader| !leader.is_empty());
    led && cluster["replicas"].as_array().is_some_and(|copies| copies.iter().all(|c| c["current"] == true && c["offline"] != true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_leader_and_all_copies() {
        let of = |leader: &str, current, offline| {
            has_all_copies(&json!({ "cluster": { "leader": leader, "replicas": [
                { "name": "b", "current": true }, { "name": "c", "current": current, "offline": offline },
            ] } }))
        };
        assert!(of("a", true, false));
        assert!(!of("", true, false) && !of("a", false, false) && !of("a", true, true));
        assert!(!has_all_copies(&json!({ "cluster": { "leader": "a" } })) && !has_all_copies(&json!({})));
    }
}
