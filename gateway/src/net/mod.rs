//! Serving connections within limits: how many at once, of one address, how long the head of a request
//! or a TLS greeting may take, how long one may be silent.

mod connection;
mod tls;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, http::Request};
use connection::Connection;
use haltline_common::config::TlsSettings;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tls::Tls;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The head of a request has to be there within this time, from its first byte or the last answer on:
/// also how long a connection may idle between requests.
const HEAD: Duration = Duration::from_secs(30);
/// Bytes and fields of a head: a token, a cookie and what browsers send.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const FIELDS_MAX: usize = 64;
/// A TLS greeting takes at most this long.
const GREETING: Duration = Duration::from_secs(10);
/// Connections of one address: a dashboard has about six; many people may share one address. Loopback
/// has no such limit: a proxy may be there.
const OF_ONE_ADDRESS: usize = 512;

/// Bytes that the kernel keeps for a client that does not read, instead of megabytes; it doubles them for
/// its own needs.
const SEND_BUFFER: usize = 128 << 10;
/// A peer that takes nothing of what was sent for this long is gone, or might as well be.
#[cfg(target_os = "linux")]
const UNTAKEN_MAX: Duration = Duration::from_secs(40);

/// From where a request came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub IpAddr);

/// Room for one connection, given back when it is dropped.
struct Room {
    _permit: OwnedSemaphorePermit,
    places: Arc<Places>,
    address: IpAddr,
}

/// Connections by address.
#[derive(Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

impl Places {
    fn take(&self, address: IpAddr) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let n = all.entry(address).or_default();
        if *n >= OF_ONE_ADDRESS && !address.is_loopback() {
            return false;
        }
        *n += 1;
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut all = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = all.get_mut(&self.address) {
            *n -= 1;
            if *n == 0 {
                all.remove(&self.address);
            }
        }
    }
}

/// Accepts connections.
pub(crate) struct Server {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    room: Arc<Semaphore>,
    places: Arc<Places>,
}

impl Server {
    /// At most `max` connections at once; more wait in the kernel's queue.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub fn new(listener: TcpListener, tls: &TlsSettings, max: usize) -> anyhow::Result<Self> {
        let room = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        Ok(Self { listener, tls: Tls::open(tls)?.map(Arc::new), room, places: Arc::default() })
    }

    /// Serves until `stop`, then until what was asked is answered.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        let conversations = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let (connection, address) = accepted;
            let (tls, router, stop) = (self.tls.clone(), router.clone(), stop.clone());
            // Ends with its connection, which the limits above end.
            conversations.spawn(async move {
                match tls {
                    None => converse(connection, router, stop, address).await,
                    Some(tls) => match tokio::time::timeout(GREETING, tls.acceptor().accept(connection)).await {
                        Ok(Ok(stream)) => converse(stream, router, stop, address).await,
                        Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS greeting failed"),
                        Err(_) => tracing::debug!(%address, "a TLS greeting took too long"),
                    },
                }
            });
        }
        drop(self.listener);
        conversations.close();
        conversations.wait().await;
    }

    async fn accept(&self) -> (Connection, SocketAddr) {
        loop {
            let Ok(permit) = self.room.clone().acquire_owned().await else {
                std::future::pending::<()>().await; // never closed
                continue;
            };
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    if !self.places.take(address.ip()) {
                        tracing::debug!(%address, "as many connections of this address as one may have; dropped");
                        continue;
                    }
                    // Small frames must not wait for the peer's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let socket = socket2::SockRef::from(&stream);
                    let _ = socket.set_send_buffer_size(SEND_BUFFER);
                    #[cfg(target_os = "linux")]
                    let _ = socket.set_tcp_user_timeout(Some(UNTAKEN_MAX));
                    let room = Room { _permit: permit, places: self.places.clone(), address: address.ip() };
                    return (Connection::new(stream, room), address);
                }
                Err(e) => {
                    // Out of descriptors, mostly: waiting is all that helps.
                    tracing::warn!(error = %e, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    router: Router,
    stop: CancellationToken,
    address: SocketAddr,
) {
    let (inner, peer) = (TowerToHyperService::new(router), Peer(address.ip()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        inner.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            // What was asked is answered; what only waits for more is closed.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "a connection ended early");
    }
}
