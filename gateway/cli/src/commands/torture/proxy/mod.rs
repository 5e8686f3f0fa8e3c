//! Proxies between processes: each service reaches nats-server and the market through its own, so
//! that the way can be cut, held, slowed down, and frames on it repeated or delivered late.

mod frames;
mod gate;
mod pump;

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use self::{
    gate::State,
    pump::{End, Pump, Way},
};
pub use self::{
    gate::{Gate, Mode},
    pump::Traffic,
};
use super::rng::Rng;
use crate::runtime::Service;

/// How long what a client sent before it went away may take to arrive.
const LINGER: Duration = Duration::from_secs(30);

/// All proxies, on a thread of their own. They end with this value.
pub struct Proxies {
    seed: u64,
    opened: u64,
    new: mpsc::UnboundedSender<Opening>,
    _thread: Service,
}

/// A way to be opened.
struct Opening {
    listener: StdListener,
    to: SocketAddr,
    gate: Gate,
    traffic: Traffic,
    purpose: u64,
    seed: u64,
}

impl Proxies {
    /// None yet.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(seed: u64) -> anyhow::Result<Self> {
        let (new, mut ways) = mpsc::unbounded_channel::<Opening>();
        let thread = Service::start("proxies", |stop| async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    way = ways.recv() => match way {
                        Some(way) => drop(tokio::spawn(accept(way))),
                        None => return Ok(()),
                    },
                }
            }
        })?;
        Ok(Self { seed, opened: 0, new, _thread: thread })
    }

    /// Opens a way to `to`; the address to use instead.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn open(&mut self, to: SocketAddr, gate: &Gate, traffic: Traffic) -> anyhow::Result<SocketAddr> {
        let listener = StdListener::bind("127.0.0.1:0").context("a port for a proxy")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.opened += 1;
        let way = Opening { listener, to, gate: gate.clone(), traffic, purpose: self.opened << 20, seed: self.seed };
        self.new.send(way).ok().context("the thread of the proxies is gone")?;
        Ok(address)
    }
}

async fn accept(way: Opening) {
    let Ok(listener) = TcpListener::from_std(way.listener) else { return };
    for n in 0.. {
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, for the moment.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let state = way.gate.follow();
        if state.borrow().mode == Mode::Cut {
            continue;
        }
        let rng = [Rng::new(way.seed, way.purpose + 2 * n), Rng::new(way.seed, way.purpose + 2 * n + 1)];
        tokio::spawn(relay(client, way.to, state, way.traffic.clone(), rng));
    }
}

async fn relay(client: TcpStream, to: SocketAddr, state: tokio::sync::watch::Receiver<State>, traffic: Traffic, rng: [Rng; 2]) {
    let resets = state.borrow().resets;
    let Ok(server) = TcpStream::connect(to).await else { return };
    // Without it, small frames wait for an acknowledgement.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let [up, down] = rng;
    let pump = |way, rng| Pump {
        way,
        traffic: traffic.clone(),
        state: state.clone(),
        rng,
        resets,
        queue: VecDeque::new(),
        later: Vec::new(),
        unread: Vec::new(),
        strange: false,
    };
    let up = pump(Way::Up, up).run(from_client, to_server);
    let down = pump(Way::Down, down).run(from_server, to_client);
    tokio::pin!(up, down);
    tokio::select! {
        _ = &mut up => {}
        end = &mut down => {
            // The client is gone; what it sent before may still be under way, as in a network that
            // stalled and comes back.
            if end == End::Gone {
                let _ = tokio::time::timeout(LINGER, up).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server that answers every byte with itself, behind a proxy.
    async fn echo(traffic: Traffic) -> (Proxies, Gate, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let mut proxies = Proxies::start(1).unwrap();
        let gate = Gate::new();
        let address = proxies.open(to, &gate, traffic).unwrap();
        (proxies, gate, TcpStream::connect(address).await.unwrap())
    }

    fn nats() -> Traffic {
        Traffic::Nats { events: "e.".into(), tasks: "t.".into() }
    }

    /// What arrives within a while.
    async fn arrives(stream: &mut TcpStream, n: usize, within_ms: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; n];
        let read = tokio::time::timeout(Duration::from_millis(within_ms), stream.read_exact(&mut bytes)).await;
        read.ok()?.ok()?;
        Some(bytes)
    }

    #[tokio::test]
    async fn what_is_held_arrives_afterwards_and_what_is_cut_does_not() {
        let (_proxies, gate, mut stream) = echo(nats()).await;
        stream.write_all(b"PING\r\n").await.unwrap();
        assert_eq!(arrives(&mut stream, 6, 5000).await.as_deref(), Some(&b"PING\r\n"[..]));
        let change = gate.set(Mode::Hold);
        stream.write_all(b"PUB e.1 2\r\nhi\r\n").await.unwrap();
        assert_eq!(arrives(&mut stream, 1, 200).await, None);
        gate.end(change + 1); // another fault's end
        assert_eq!(arrives(&mut stream, 1, 50).await, None);
        gate.end(change);
        assert_eq!(arrives(&mut stream, 15, 5000).await.as_deref(), Some(&b"PUB e.1 2\r\nhi\r\n"[..]));
        gate.set(Mode::Cut);
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_u8()).await.unwrap();
        assert!(ended.is_err());
    }

    #[tokio::test]
    async fn publishes_are_repeated_whole_and_a_reset_ends_the_connection() {
        let (_proxies, gate, mut stream) = echo(nats()).await;
        gate.set(Mode::Duplicate);
        let frame = b"PUB e.1 2\r\nhi\r\n";
        for _ in 0..50 {
            stream.write_all(frame).await.unwrap();
        }
        // At least one of fifty is repeated within three seconds, and none is torn.
        let all = arrives(&mut stream, 51 * frame.len(), 10_000).await.unwrap();
        assert!(all.chunks(frame.len()).all(|f| f == frame));
        gate.reset();
        let ended = async {
            while let Ok(n) = stream.read(&mut [0; 100]).await {
                if n == 0 {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap();
    }

    #[tokio::test]
    async fn answers_are_lost_after_the_request_arrived() {
        let (_proxies, gate, mut stream) = echo(Traffic::Bytes).await;
        gate.set(Mode::LoseReplies);
        stream.write_all(b"POST").await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_u8()).await.unwrap();
        assert!(ended.is_err());
    }

    #[tokio::test]
    async fn a_slow_way_is_slow() {
        let (_proxies, gate, mut stream) = echo(Traffic::Bytes).await;
        gate.set(Mode::Delay(150));
        let began = std::time::Instant::now();
        stream.write_all(b"x").await.unwrap();
        assert!(arrives(&mut stream, 1, 5000).await.is_some());
        assert!(began.elapsed() >= Duration::from_millis(300));
    }
}
