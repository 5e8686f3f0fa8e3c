//! A managed nats-server starts, keeps its streams over a restart, and says why it does not start.

use std::{path::PathBuf, time::Duration};

use haltline_common::{Link, config::StorageSettings, topology, types::Names};
use haltline_server::{Managed, Options, StartError, find_or_fetch};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("haltline-server-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("temp folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn binary() -> PathBuf {
    find_or_fetch(|line| eprintln!("{line}")).expect("a nats-server")
}

async fn link(server: &Managed) -> Link {
    Link::connect(server.url(), Names::new("haltline").expect("valid"), "test").await.expect("connects")
}

#[tokio::test]
async fn it_keeps_its_streams_over_a_restart_on_the_same_port() {
    let folder = Folder::new("restart");
    let first = Managed::start(&binary(), Options::new(&folder.0)).await.expect("starts");
    let port = first.port();
    let changes = topology::ensure(&link(&first).await, &StorageSettings::default()).await.expect("fits the server's storage");
    assert!(!changes.is_empty());
    first.stop().await;
    let options = Options { port, sync_interval: Some("always".into()), ..Options::new(&folder.0) };
    let second = Managed::start(&binary(), options).await.expect("starts again");
    assert_eq!(second.port(), port);
    let changes = topology::ensure(&link(&second).await, &StorageSettings::default()).await.expect("still fits");
    assert_eq!(changes, []);
    second.kill();
}

#[tokio::test]
async fn a_folder_and_a_port_are_used_once() {
    let (a, b) = (Folder::new("once-a"), Folder::new("once-b"));
    let server = Managed::start(&binary(), Options::new(&a.0)).await.expect("starts");
    assert!(matches!(Managed::start(&binary(), Options::new(&a.0)).await, Err(StartError::Busy(_))));
    let same_port = Options { port: server.port(), ..Options::new(&b.0) };
    assert!(matches!(Managed::start(&binary(), same_port).await, Err(StartError::PortTaken { .. })));
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_refuses_its_configuration_is_quoted() {
    let folder = Folder::new("refuses");
    let options = Options { sync_interval: Some("sometimes".into()), ready_within: Duration::from_secs(5), ..Options::new(&folder.0) };
    match Managed::start(&binary(), options).await {
        Err(StartError::Ended { log, .. }) => assert!(log.contains("sync_interval"), "{log}"),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("must not start"),
    }
}
