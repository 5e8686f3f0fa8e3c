//! The paper market: a process of its own that replays real prices over HTTP and takes orders
//! without sending them anywhere. Every order that arrives is written to a ledger before it is
//! answered, so what a workflow did to the world outside can be counted afterwards.
//!
//! | Endpoint | Answer |
//! |---|---|
//! | `GET /health` | `{status, date, orders}` |
//! | `GET /symbols` | `["AAPL", ...]` |
//! | `GET /price/{symbol}` | the bar of the replay's day; `?date=YYYY-MM-DD` for a fixed day, `?delay_ms=` to answer late |
//! | `POST /clock/advance` | `{bars: n}` moves the replay; `{date, bar, bars, ended}` |
//! | `POST /orders` | places an order, see [`order::Ask`]; the fill, with `duplicate` |
//! | `GET /orders`, `GET /orders/{client_order_id}` | accepted orders, in order of acceptance |
//! | `GET /ledger` | every arrival, in order |
//!
//! Errors are `{error, field}` with status 404, 409 (stale token), 413, 422, 503 (ledger not
//! writable) or 507 (no room for more orders). Prices, quantities and amounts are decimal texts.

use std::{future::IntoFuture, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

mod book;
mod fields;
mod ledger;
pub mod order;
mod prices;
mod replay;
mod reply;
mod routes;

/// How long requests that are under way may take to end once the market stops.
const GRACE: Duration = Duration::from_secs(5);

/// How the market runs.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Prices to replay: CSV with Ticker,Date,Open,High,Low,Close,Volume (default: AAPL and IBM, autumn of 2008)
    #[arg(long, value_name = "FILE")]
    pub prices: Option<PathBuf>,
    /// Where every arriving order is written, one line of JSON each; read back at start
    #[arg(long, value_name = "FILE", default_value = "market-ledger.jsonl")]
    pub ledger: PathBuf,
    /// Accept every arrival: no recognition of repeated orders, no fencing (shows what they prevent)
    #[arg(long)]
    pub no_dedup: bool,
    /// Move the replay by one bar after each price request instead of only by POST /clock/advance
    #[arg(long)]
    pub advance_per_request: bool,
}

impl Options {
    /// The defaults, with that ledger.
    pub fn new(ledger: impl Into<PathBuf>) -> Self {
        Self { prices: None, ledger: ledger.into(), no_dedup: false, advance_per_request: false }
    }
}

/// Serves the market on `listener` until `stop` is cancelled.
///
/// # Errors
/// When prices or ledger cannot be read, another market has the ledger, or the listener fails.
pub async fn run(listener: TcpListener, options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr().context("address of the market's listener")?;
    // A ledger with a million lines takes a while to read: not on the thread that others share.
    let market = tokio::task::spawn_blocking(move || routes::Market::open(&options)).await.context("opening the market")??;
    tracing::info!(%address, orders = market.orders(), date = market.date(), "paper market");
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
    });
    let server = axum::serve(listener, routes::router(Arc::new(market))).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        result = server.into_future() => result.context("serving the market"),
        () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => {
            tracing::warn!("requests were still under way when the market ended");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn options_are_read() {
        let read = |args: &[&str]| Cli::try_parse_from([&["market"], args].concat()).map(|c| c.options).map_err(|e| e.to_string());
        assert!(read(&[]).is_ok_and(|o| o.ledger.as_os_str() == "market-ledger.jsonl" && !o.no_dedup && o.prices.is_none()));
        assert!(
            read(&["--ledger", "a", "--prices", "b", "--no-dedup", "--advance-per-request"])
                .is_ok_and(|o| o.no_dedup && o.advance_per_request)
        );
        assert!(read(&["--dedup"]).is_err());
    }
}
