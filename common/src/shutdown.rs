//! Ending a process: the first SIGTERM or SIGINT drains, the second exits at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a forced exit: 128 + SIGTERM.
const FORCED: i32 = 143;

/// Listens for signals. The token it gives is cancelled by the first one.
///
/// # Errors
/// When signal handlers cannot be installed.
pub fn listen() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let drain = token.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("draining; a second signal exits at once");
        drain.cancel();
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        eprintln!("second signal: exiting at once");
        std::process::exit(FORCED);
    });
    Ok(token)
}
