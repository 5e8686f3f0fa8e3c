//! A relay before a venue, or nats-server, that can keep back or lose what is sent, as a network does at the wrong moment.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The relay; it ends with the test's runtime.
pub struct Relay {
    /// Where it listens.
    pub url: String,
    holds: Arc<watch::Sender<bool>>,
    loses: Arc<AtomicBool>,
    arrived: watch::Receiver<usize>,
    answered: watch::Receiver<usize>,
}

impl Relay {
    /// Starts one to `port` of this machine.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (holds, (count, arrived), (answers, answered)) = (Arc::new(watch::Sender::new(false)), watch::channel(0), watch::channel(0));
        let loses = Arc::new(AtomicBool::new(false));
        let (held, lost, count, answers) = (holds.clone(), loses.clone(), Arc::new(count), Arc::new(answers));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, port, (held.subscribe(), lost.clone()), count.clone(), answers.clone()));
            }
        });
        Ok(Self { url, holds, loses, arrived, answered })
    }

    /// Keeps back what arrives from now on (`true`), or lets go of all of it.
    pub fn hold(&self, holds: bool) {
        self.holds.send_replace(holds);
    }

    /// Loses what arrives, and tells nobody, until told otherwise.
    pub fn lose(&self, loses: bool) {
        self.loses.store(loses, Ordering::Relaxed);
    }

    /// How many pieces of requests arrived so far, kept back or not.
    pub fn arrived(&self) -> usize {
        *self.arrived.borrow()
    }

    /// Waits until more than so many pieces of answers came.
    pub async fn answers(&self, more_than: usize) {
        let _ = self.answered.clone().wait_for(|n| *n > more_than).await;
    }

    /// How many pieces of answers the venue gave so far, whether anybody waited for them or not.
    pub fn answered(&self) -> usize {
        *self.answered.borrow()
    }
}

type Count = Arc<watch::Sender<usize>>;

async fn carry(stream: TcpStream, port: u16, (mut held, lost): (watch::Receiver<bool>, Arc<AtomicBool>), count: Count, answered: Count) {
    let Ok(venue) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let ((mut from, mut to), (mut answers, mut requests)) = (stream.into_split(), venue.into_split());
    let answering = tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = answers.read(&mut buffer).await {
            answered.send_modify(|n| *n += 1);
            // Whoever asked may have gone.
            let _ = to.write_all(&buffer[..n]).await;
        }
    });
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        count.send_modify(|n| *n += 1);
        if lost.load(Ordering::Relaxed) {
            continue;
        }
        if held.wait_for(|holds| !holds).await.is_err() || requests.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
    // Whoever sent it has gone; what it sent is still to be answered.
    let _ = answering.await;
    drop(requests);
}
