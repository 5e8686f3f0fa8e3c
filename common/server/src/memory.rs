//! What nats-server is told of memory: how seldom it may look for what it can free.
//!
//! Each time it does it looks at all that it knows of executions that are kept; by default whenever its memory has
//! doubled. Where a million are kept that was a fifth of its CPU.

use std::{env, fs, io};

/// Memory may grow to so many per cent more than what is in use before it looks, up to the limit below.
const GROWTH: (&str, &str) = ("GOGC", "400");
/// From this on it looks more often.
const LIMIT: &str = "GOMEMLIMIT";
/// The part of the machine's memory that the limit is: others run here, too.
const SHARE: u64 = 4;

/// Variables for a server that is started here; none that this process was given itself, and none where the
/// machine's memory is not known.
pub fn variables() -> Vec<(&'static str, String)> {
    let given = |name: &str| env::var_os(name).is_some();
    let Some(limit) = total().map(|bytes| (bytes / SHARE).to_string()).filter(|_| !given(GROWTH.0) && !given(LIMIT)) else {
        return Vec::new();
    };
    vec![(GROWTH.0, GROWTH.1.to_owned()), (LIMIT, limit)]
}

/// Bytes of the machine's memory.
fn total() -> Option<u64> {
    parse(&read().ok()?)
}

fn read() -> io::Result<String> {
    fs::read_to_string("/proc/meminfo")
}

/// Of `MemTotal:  24639124 kB`.
fn parse(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_total() {
        assert_eq!(parse("MemTotal:       24639124 kB\nMemFree:         1 kB\n"), Some(24_639_124 * 1024));
        assert_eq!(parse("MemFree: 1 kB\n"), None);
        assert_eq!(parse("MemTotal: many kB\n"), None);
    }
}
