//! Ports that a process can come back to after it was killed.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

/// Below the range from which the kernel draws ports for outgoing connections: a client that tries
/// again and again to reach a dead server there can be given the server's own port, and then talks to
/// itself for ever.
const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;

/// A port that is free now and was not given before.
pub fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Processes that run at the same time start far apart.
        let n = std::process::id().wrapping_mul(211).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + n % COUNT).unwrap_or(u16::MAX);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
