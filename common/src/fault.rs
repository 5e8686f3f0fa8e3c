//! Fault points: named places, one for each write, where a test can kill the process as `kill -9`
//! would. Armed by `HALTLINE_FAULT=<point>[:<n>][@<file>]`: at the n-th passage (default the first)
//! it kills this process, or the one whose pid is in the file. `HALTLINE_FAULT=clock:<ms>` sets this process's
//! wall clock forward, or back. Free of effect otherwise.

use std::sync::{
    OnceLock,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

struct Armed {
    point: String,
    left: AtomicU64,
    /// File with the pid of another process to kill instead of this one.
    other: Option<String>,
}

static CLOCK: AtomicI64 = AtomicI64::new(0);
static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Arms the point that `spec` names. Called once, by the command line, before services start.
pub fn arm(spec: Option<&str>) {
    if let Some(ms) = spec.and_then(|s| s.strip_prefix("clock:")).and_then(|ms| ms.parse().ok()) {
        CLOCK.store(ms, Ordering::Relaxed);
    }
    let armed = spec.map(|s| {
        let (point, other) = s.split_once('@').map_or((s, None), |(p, o)| (p, Some(o.to_owned())));
        let (point, nth) = point.split_once(':').unwrap_or((point, "1"));
        Armed { point: point.to_owned(), left: AtomicU64::new(nth.parse().unwrap_or(1).max(1)), other }
    });
    // A second call finds it set: the first one counts.
    let _ = ARMED.set(armed);
}

/// Milliseconds by which this process's wall clock is set wrong.
pub(crate) fn clock_ms() -> i64 {
    CLOCK.load(Ordering::Relaxed)
}

/// Kills here if this point is armed.
pub fn point(name: &str) {
    let Some(Some(armed)) = ARMED.get() else { return };
    if armed.point != name || armed.left.fetch_sub(1, Ordering::Relaxed) != 1 {
        return;
    }
    match &armed.other {
        None => {
            eprintln!("fault point {name}: killing this process");
            // A real SIGKILL, so that exit handlers, destructors and buffers get no chance.
            kill(&std::process::id().to_string());
            std::process::abort();
        }
        Some(file) => match std::fs::read_to_string(file) {
            Ok(pid) => {
                eprintln!("fault point {name}: killing process {}", pid.trim());
                kill(pid.trim());
            }
            Err(e) => eprintln!("fault point {name}: cannot read {file}: {e}"),
        },
    }
}

fn kill(pid: &str) {
    let _ = std::process::Command::new("kill").args(["-9", pid]).status();
}
