//! A venue that records what it is asked, and answers as a test wants it to.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub enum Mood {
    /// 200 and an empty object.
    Ok = 0,
    /// Takes the request and never answers.
    Silent = 1,
    /// 500: what it did nobody knows.
    Broken = 2,
    /// 400: nothing was done.
    Refusing = 3,
}

/// The venue; it ends with the test's runtime.
pub struct Venue {
    /// Where it listens.
    pub url: String,
    mood: Arc<AtomicU8>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Venue {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(mood: Mood) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (mood, asked) = (Arc::new(AtomicU8::new(mood as u8)), Arc::new(Mutex::new(Vec::new())));
        let venue = Self { url, mood: mood.clone(), asked: asked.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, mood.clone(), asked.clone()));
            }
        });
        Ok(venue)
    }

    /// Answers so from now on.
    pub fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    /// Header `name` of every request whose path is `path`, in the order they came; empty where it is missing.
    pub fn headers(&self, path: &str, name: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |head: &String| {
            let value = head.lines().filter_map(|l| l.split_once(':')).find(|(n, _)| n.eq_ignore_ascii_case(name));
            value.map(|(_, v)| v.trim().to_owned()).unwrap_or_default()
        };
        asked.iter().filter(|head| head.split(' ').nth(1) == Some(path)).map(of).collect()
    }
}

async fn serve(mut stream: TcpStream, mood: Arc<AtomicU8>, asked: Arc<Mutex<Vec<String>>>) {
    // A request of these tests is one small packet.
    let mut buffer = vec![0; 16 * 1024];
    let Ok(n) = stream.read(&mut buffer).await else { return };
    if n == 0 {
        return;
    }
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(String::from_utf8_lossy(&buffer[..n]).into_owned());
    let status = match mood.load(Ordering::SeqCst) {
        1 => std::future::pending().await,
        2 => "500 Internal Server Error",
        3 => "400 Bad Request",
        _ => "200 OK",
    };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
    // Whoever asked may have died since.
    let _ = stream.write_all(answer.as_bytes()).await;
}
