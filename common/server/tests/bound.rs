//! No child outlives its parent, however that ends; and a child outlives the thread that asked for it.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use haltline_server::{Launch, spawn_bound};

/// Set in the process that plays the parent: this very test, executed again.
const PARENT_VAR: &str = "HALTLINE_TEST_PARENT";

/// The parent that gets killed: tells its child and waits for its end.
fn play_parent() {
    // Asked for by a thread that ends at once: the child must go on.
    let child = std::thread::spawn(|| spawn_bound(Launch::new("sleep").arg("1000"))).join().expect("joins").expect("spawns");
    std::thread::sleep(Duration::from_millis(100));
    println!("child {}", child.pid());
    std::thread::sleep(Duration::from_secs(1000));
}

fn runs(pid: u32) -> bool {
    let out = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().expect("ps runs");
    let stat = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    // A zombie has ended; who reaps it is not ours to say.
    !stat.is_empty() && !stat.starts_with('Z')
}

#[test]
fn a_killed_parent_leaves_no_child() {
    if std::env::var_os(PARENT_VAR).is_some() {
        return play_parent();
    }
    let me = std::env::current_exe().expect("own path");
    let mut parent = Command::new(me)
        .args(["--exact", "a_killed_parent_leaves_no_child", "--nocapture"])
        .env(PARENT_VAR, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("re-executes");
    let lines = BufReader::new(parent.stdout.take().expect("piped")).lines();
    let pid = lines
        .map_while(Result::ok)
        // The harness writes its own text onto the same line.
        .find_map(|l| l.split_once("child ").and_then(|(_, pid)| pid.trim().parse().ok()))
        .expect("the parent tells its child");
    assert!(runs(pid), "the child must outlive the thread that asked for it");
    parent.kill().expect("kill -9");
    parent.wait().expect("reaped");
    let until = Instant::now() + Duration::from_secs(5);
    while runs(pid) {
        assert!(Instant::now() < until, "child {pid} outlives its parent");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_stopped_child_is_asked_first() {
    let child = spawn_bound(Launch::new("sh").args(["-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done"])).expect("spawns");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let status = child.stop(Duration::from_secs(5)).await.expect("ends");
    assert_eq!(status.code(), Some(3));
}

#[tokio::test]
async fn a_stubborn_child_is_killed() {
    let child = spawn_bound(Launch::new("sh").args(["-c", "trap '' TERM; while :; do sleep 0.05; done"])).expect("spawns");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = Instant::now();
    child.stop(Duration::from_millis(300)).await.expect("ends");
    assert!(before.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_is_not_there_is_an_error() {
    assert!(spawn_bound(Launch::new("/no/such/program")).is_err());
}
