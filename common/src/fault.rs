//! Fault points: named places, one for each write, where a test can kill the process as `kill -9`
//! would. Armed by `HALTLINE_FAULT=<point>` (first passage) or `<point>:<n>` (n-th passage); free of
//! cost and effect otherwise.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

struct Armed {
    point: String,
    left: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Arms the point that `spec` names. Called once, by the configuration, before services start.
pub fn arm(spec: Option<&str>) {
    let armed = spec.map(|s| {
        let (point, nth) = s.split_once(':').unwrap_or((s, "1"));
        Armed { point: point.to_owned(), left: AtomicU64::new(nth.parse().unwrap_or(1).max(1)) }
    });
    // A second call finds it set: the first one counts.
    let _ = ARMED.set(armed);
}

/// Dies here if this point is armed.
pub fn point(name: &str) {
    let Some(Some(armed)) = ARMED.get() else { return };
    if armed.point == name && armed.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        eprintln!("fault point {name}: killing this process");
        die();
    }
}

/// Ends the process without any clean-up, as `kill -9` does.
fn die() -> ! {
    let pid = std::process::id().to_string();
    // A real SIGKILL, so that exit handlers, destructors and buffers get no chance.
    let _ = std::process::Command::new("kill").args(["-9", &pid]).status();
    std::process::abort()
}
