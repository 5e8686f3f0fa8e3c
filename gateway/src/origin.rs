//! Which web pages may use the gateway. CORS protects neither WebSockets nor writes that need no
//! preflight, and a name that is made to resolve to this machine makes any page look like our own:
//! so origins and host names are checked here.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use haltline_common::config::{Environment, GatewaySettings};

/// The rule.
pub(crate) struct Origins {
    listed: HashSet<String>,
    hosts: HashSet<String>,
    development: bool,
    /// Bound to loopback: only names of this machine can be meant.
    local: bool,
}

impl Origins {
    /// From the settings and the address that is listened on.
    pub fn new(settings: &GatewaySettings, bound: IpAddr) -> Self {
        let listed: HashSet<String> = settings.origins.iter().map(|o| o.trim_end_matches('/').to_ascii_lowercase()).collect();
        let mut hosts: HashSet<String> = listed.iter().filter_map(|o| authority(o)).map(|a| host_of(a).to_owned()).collect();
        hosts.insert("localhost".into());
        hosts.insert(settings.host.to_ascii_lowercase());
        Self { listed, hosts, development: settings.env == Environment::Development, local: bound.is_loopback() }
    }

    /// Whether a page of `origin` may write here and open sockets; `host` is what it called us.
    pub fn allows(&self, origin: &str, host: Option<&str>) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.listed.contains(origin.as_str()) {
            return true;
        }
        let Some(page) = authority(&origin) else { return false };
        if self.development && is_loopback(host_of(page)) {
            return true;
        }
        host.is_some_and(|h| h.eq_ignore_ascii_case(page) && self.knows(h))
    }

    /// Whether a request that calls us `host` can be meant for us at all.
    pub fn serves(&self, host: Option<&str>) -> bool {
        !self.local || host.is_none_or(|h| self.knows(h))
    }

    /// A name that nobody else can make point here: an address, ours, or a listed one.
    fn knows(&self, host: &str) -> bool {
        let host = host_of(host).to_ascii_lowercase();
        host.parse::<IpAddr>().is_ok() || self.hosts.contains(&host)
    }
}

/// `host:port` of `http(s)://host:port`.
fn authority(origin: &str) -> Option<&str> {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))?;
    (!rest.is_empty() && !rest.contains(['/', '@', '?', '#'])).then_some(rest)
}

/// The host without port and brackets.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    if authority.parse::<SocketAddr>().is_err() && authority.parse::<IpAddr>().is_ok() {
        return authority;
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(env: Environment, list: &[&str]) -> Origins {
        let settings = GatewaySettings { env, origins: list.iter().map(|s| (*s).to_owned()).collect(), ..GatewaySettings::default() };
        Origins::new(&settings, "127.0.0.1".parse().expect("address"))
    }

    #[test]
    fn production_takes_its_own_and_listed_origins_only() {
        let o = origins(Environment::Production, &["https://dash.example.com/"]);
        assert!(o.allows("https://dash.example.com", Some("127.0.0.1:8001")));
        assert!(o.allows("http://127.0.0.1:8001", Some("127.0.0.1:8001")));
        assert!(o.allows("http://[::1]:8001", Some("[::1]:8001")));
        for bad in [
            "http://127.0.0.1:9999",
            "http://evil.example",
            "null",
            "",
            "file://",
            "https://dash.example.com.evil.example",
            "http://u@127.0.0.1:8001",
        ] {
            assert!(!o.allows(bad, Some("127.0.0.1:8001")), "{bad}");
        }
    }

    #[test]
    fn a_rebound_name_is_not_our_own() {
        for env in [Environment::Production, Environment::Development] {
            let o = origins(env, &[]);
            assert!(!o.allows("http://evil.example:8001", Some("evil.example:8001")));
            assert!(!o.serves(Some("evil.example:8001")));
            assert!(o.serves(Some("localhost:8001")) && o.serves(Some("127.0.0.1:8001")) && o.serves(None));
        }
    }

    #[test]
    fn development_takes_any_loopback_page() {
        let o = origins(Environment::Development, &[]);
        assert!(o.allows("http://localhost:5173", Some("127.0.0.1:8001")));
        assert!(!o.allows("http://10.0.0.1:5173", Some("127.0.0.1:8001")));
    }
}
