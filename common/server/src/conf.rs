//! The configuration file of a managed nats-server.

use std::path::Path;

use crate::managed::Options;

/// The configuration file's name in the data folder.
pub const CONF_FILE: &str = "nats-server.conf";
/// The log's name in the data folder.
pub const LOG_FILE: &str = "nats-server.log";

/// Above what Haltline's streams reserve (some 200 GB with default settings). A reservation takes no
/// disk space; the streams' own limits do the limiting.
const FILE_STORE_BYTES: u64 = 1 << 40;

/// The file's text; paths are absolute.
///
/// Without the cache of who listens to a subject: nearly every message of Haltline has a subject of its own, so
/// keeping that cache takes a fifteenth of the server's CPU and saves nothing.
pub fn text(options: &Options, store: &Path, ports: &Path) -> String {
    // -1 draws a free port.
    let port = if options.port == 0 { "-1".to_owned() } else { options.port.to_string() };
    let sync = options.sync_interval.as_deref().map(|s| format!("  sync_interval: {}\n", quoted(s))).unwrap_or_default();
    let cluster = options.cluster.as_ref().map(|c| {
        let routes: Vec<String> = c.routes.iter().map(|r| quoted(&format!("nats://{r}"))).collect();
        format!(
            // Clients are not told the other servers' addresses: they have been given those they are to use. The lame duck is
            // that of `deploy/cluster`.
            "cluster {{\n  name: {}\n  host: {}\n  port: {}\n  cluster_advertise: {}\n  no_advertise: true\n  routes: [{}]\n}}\n\
             lame_duck_grace_period: \"2s\"\nlame_duck_duration: \"30s\"\n",
            quoted(&c.name),
            quoted(&options.host),
            c.port,
            quoted(&c.advertise),
            routes.join(", "),
        )
    });
    let cluster = cluster.unwrap_or_default();
    format!(
        "# Written by Haltline at every start; edits are lost.\n\
         server_name: {}\n\
         host: {}\n\
         port: {port}\n\
         ports_file_dir: {}\n\
         max_payload: 1MB\n\
         disable_sublist_cache: true\n\
         jetstream {{\n  store_dir: {}\n  max_file_store: {FILE_STORE_BYTES}\n{sync}}}\n\
         {cluster}",
        quoted(&options.name),
        quoted(&options.host),
        quoted(&ports.to_string_lossy()),
        quoted(&store.to_string_lossy()),
    )
}

/// A string as the file's grammar wants it; its escapes are those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The `sync_interval` that a configuration file sets, if it does.
pub fn sync_interval_of(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let value = line.trim().strip_prefix("sync_interval")?.trim_start_matches([':', '=', ' ', '\t']);
        Some(value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::managed::Cluster;

    #[test]
    fn the_file_says_what_was_asked() {
        let options = Options { sync_interval: Some("always".into()), name: "a \"b\"".into(), ..Options::new("/d") };
        let text = text(&options, Path::new("/d/js"), Path::new("/d/ports"));
        assert!(text.contains(r#"server_name: "a \"b\"""#) && text.contains("port: -1"));
        assert_eq!(sync_interval_of(&text).as_deref(), Some("always"));
        assert_eq!(sync_interval_of("jetstream {\n}"), None);
        assert!(!text.contains("cluster"));
    }

    #[test]
    fn one_of_several_knows_its_routes_and_tells_clients_none() {
        let cluster = Cluster { name: "c".into(), port: 6222, advertise: "a:1".into(), routes: vec!["b:2".into(), "c:3".into()] };
        let text = text(&Options { cluster: Some(cluster), ..Options::new("/d") }, Path::new("/d/js"), Path::new("/d/ports"));
        for line in
            ["  port: 6222\n", "  cluster_advertise: \"a:1\"\n", "  no_advertise: true\n", r#"  routes: ["nats://b:2", "nats://c:3"]"#]
        {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
