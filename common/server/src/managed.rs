//! A nats-server of our own on a data folder.

use std::{
    env, fs,
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use crate::{Bound, Launch, conf, ready, spawn_bound};

/// How long a server that was asked to end may take; it has nothing to write back but its index.
const GRACE: Duration = Duration::from_secs(5);
/// Lines of the log that an error quotes.
const QUOTED_LINES: usize = 8;

/// How to run it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it keeps everything: configuration, log, streams. Created if it is not there.
    pub data_dir: PathBuf,
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 draws a free one.
    pub port: u16,
    /// When writes reach the disk: `always`, or an interval as `10s`; the server's default of two
    /// minutes if `None`.
    pub sync_interval: Option<String>,
    /// Its name, as clients see it.
    pub name: String,
    /// How long it may take to answer; recovery of large streams takes longer than the default 10 s.
    pub ready_within: Duration,
    /// What it needs to be one of several.
    pub cluster: Option<Cluster>,
    /// Where streams are kept; in `data_dir` if `None`.
    pub store_dir: Option<PathBuf>,
}

/// One server's part of a cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The cluster's name, the same on all of them.
    pub name: String,
    /// Port for the other servers.
    pub port: u16,
    /// Address that the other servers are told to reach it by.
    pub advertise: String,
    /// Addresses of the other servers, as `127.0.0.1:6222`.
    pub routes: Vec<String>,
}

impl Options {
    /// On `data_dir`, at a drawn port of this machine.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            host: "127.0.0.1".into(),
            port: 0,
            sync_interval: None,
            name: "haltline".into(),
            ready_within: Duration::from_secs(10),
            cluster: None,
            store_dir: None,
        }
    }
}

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another one has the folder.
    #[error("{} is in use by another Haltline process", .0.display())]
    Busy(PathBuf),
    /// Another process listens there.
    #[error(
        "{host}:{port} is in use: another nats-server may run there; use it by --nats nats://{host}:{port}, or choose another port (0 draws one)"
    )]
    PortTaken {
        /// The address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A file cannot be used.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It ended instead of answering.
    #[error("nats-server ended at once ({status}); its log says:\n{log}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// It does not answer.
    #[error("nats-server did not answer within {waited:?}; its log says:\n{log}")]
    Silent {
        /// How long it was given.
        waited: Duration,
        /// The last lines of its log.
        log: String,
    },
}

/// A running nats-server. It ends with this value, and with this process however that ends.
pub struct Managed {
    child: Bound,
    url: String,
    port: u16,
    data_dir: PathBuf,
    // Held until the child is gone: fields drop in order.
    _lock: File,
}

/// How often nats-server looks for memory that it can use again, unless our environment says: rarely, as long as there
/// is some. Each time it looks at everything it knows of every execution that is kept (ARCHITECTURE, figures).
const COLLECTION: [(&str, &str); 2] = [("GOGC", "400"), ("GOMEMLIMIT", "6GiB")];

impl Managed {
    /// Starts `binary` and waits until it answers.
    ///
    /// # Errors
    /// When the folder or port is taken, or the server does not come up; with what its log says.
    pub async fn start(binary: &Path, options: Options) -> Result<Self, StartError> {
        let dir = std::path::absolute(&options.data_dir).map_err(file("cannot use", &options.data_dir))?;
        let ports = dir.join("ports");
        fs::create_dir_all(&dir).map_err(file("cannot create", &dir))?;
        let lock = lock(&dir)?;
        // What a killed predecessor left there would be taken for this one's.
        match fs::remove_dir_all(&ports) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file("cannot clear", &ports)(e)),
            _ => {}
        }
        fs::create_dir_all(&ports).map_err(file("cannot create", &ports))?;
        check_port(&options)?;
        let conf = dir.join(conf::CONF_FILE);
        let store = options.store_dir.clone().unwrap_or_else(|| dir.join("jetstream"));
        fs::write(&conf, conf::text(&options, &store, &ports)).map_err(file("cannot write", &conf))?;
        let log = dir.join(conf::LOG_FILE);
        let open = || File::options().create(true).append(true).open(&log).map_err(file("cannot write", &log));
        let from = open()?.metadata().map_or(0, |m| m.len());
        let mut launch = Launch::new(binary).arg("-c").arg(&conf).stdout(open()?).stderr(open()?);
        for (name, value) in COLLECTION {
            if env::var_os(name).is_none() {
                launch = launch.env(name, value);
            }
        }
        let mut child = spawn_bound(launch).map_err(file("cannot run", binary))?;

        let up = async {
            let address = ready::address(&ports).await;
            ready::greeted(address).await;
            address
        };
        let address = tokio::select! {
            address = up => address,
            ended = child.wait() => {
                let status = ended.map_err(file("cannot wait for", binary))?;
                return Err(StartError::Ended { status, log: last_lines(&log, from) });
            }
            () = tokio::time::sleep(options.ready_within) => {
                return Err(StartError::Silent { waited: options.ready_within, log: last_lines(&log, from) });
            }
        };
        tracing::debug!(pid = child.pid(), %address, dir = %dir.display(), "nats-server runs");
        Ok(Self { child, url: format!("nats://{address}"), port: address.port(), data_dir: dir, _lock: lock })
    }

    /// Its address, as `nats://127.0.0.1:4222`.
    pub fn url(&self) -> &str {
        &self.url
    }
    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
    /// Its process id; elsewhere than on Linux that of the shell that guards it.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }
    /// Its folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }
    /// Waits for it to end by itself. Cancel safe.
    ///
    /// # Errors
    /// When the system does not tell.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
    /// Suspends (`true`) or resumes it: a server that hangs, to its clients.
    pub fn pause(&mut self, paused: bool) {
        self.child.pause(paused);
    }
    /// Asks it to end, by SIGTERM.
    pub fn terminate(&mut self) {
        self.child.terminate();
    }
    /// Asks one of several to hand over what it leads, then its clients, and to end: lame duck, by SIGUSR2. By SIGTERM it
    /// hands over as well, but ends at once, and what it said last may not be heard: then others wait 4 to 9 s for it.
    pub fn hand_over(&mut self) {
        self.child.user_signal();
    }
    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.child.kill();
    }
    /// Ends it: asks first, insists after five seconds.
    pub async fn stop(self) {
        let Self { child, _lock, .. } = self;
        if let Err(error) = child.stop(GRACE).await {
            tracing::warn!(%error, "waiting for nats-server to end");
        }
    }
}

fn file(what: &'static str, path: &Path) -> impl Fn(io::Error) -> StartError + use<> {
    let path = path.to_owned();
    move |source| StartError::File { what, path: path.clone(), source }
}

/// How long a lock on the folder that is about to go is waited for.
const LOCKED_FOR: Duration = Duration::from_millis(300);

/// Two servers on one folder would destroy each other's streams.
fn lock(dir: &Path) -> Result<File, StartError> {
    let path = dir.join(".lock");
    let lock = File::options().create(true).append(true).open(&path).map_err(file("cannot open", &path))?;
    let until = Instant::now() + LOCKED_FOR;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            // A child that another thread is just starting holds what we have open, until it runs.
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::WouldBlock) => return Err(StartError::Busy(dir.to_owned())),
            Err(TryLockError::Error(e)) => return Err(file("cannot lock", &path)(e)),
        }
    }
}

/// Tells a taken port before the server does, in words that say what to do.
fn check_port(options: &Options) -> Result<(), StartError> {
    if options.port == 0 {
        return Ok(());
    }
    match std::net::TcpListener::bind((options.host.as_str(), options.port)) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(StartError::PortTaken { host: options.host.clone(), port: options.port }),
        // The server says anything else better.
        _ => Ok(()),
    }
}

fn last_lines(log: &Path, from: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let ours = bytes.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
    let text = String::from_utf8_lossy(ours);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(QUOTED_LINES)..];
    if last.is_empty() { "(nothing)".into() } else { last.join("\n") }
}
