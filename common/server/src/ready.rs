//! When a nats-server that was just started can be used, and at which address.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
};

const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Deserialize)]
struct Ports {
    #[serde(default)]
    nats: Vec<String>,
}

/// The first client address that the server wrote into `folder`. Only our server writes there, so
/// another one on the same port is never taken for it.
pub async fn address(folder: &Path) -> SocketAddr {
    loop {
        if let Some(found) = read_ports(folder) {
            return found;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn read_ports(folder: &Path) -> Option<SocketAddr> {
    let file = fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "ports"))?;
    // Half written files do not parse and are read again.
    let ports: Ports = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    ports.nats.iter().find_map(|url| url.strip_prefix("nats://")?.parse().ok())
}

/// Connects until the server greets, which it does once JetStream has recovered its streams.
pub async fn greeted(address: SocketAddr) {
    while !greets(address).await {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn greets(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(address).await else { return false };
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.is_ok() && line.starts_with("INFO ")
}
