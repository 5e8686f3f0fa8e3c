//! A process of the system and who looks after it: does to it what faults say, and starts it again.

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use haltline_common::clock;
use haltline_server::{Bound, Launch, Managed, Options, StartError, spawn_bound};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// How long a service may take to drain after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);
/// How long a server may take to hand over: its `lame_duck_duration`, and what ending takes.
const HANDS_OVER: Duration = Duration::from_secs(40);
/// Before a process that ended by itself is started again, as a supervisor does.
const SUPERVISOR: Duration = Duration::from_millis(200);
/// A start that fails is repeated: a port or a folder may be free a moment later.
const STARTS_MAX: u32 = 100;
/// Orders waiting for one process; each is a few bytes.
const ORDERS_MAX: usize = 64;

/// How to start it.
#[derive(Clone)]
pub enum Recipe {
    /// This command, as a service.
    Service {
        /// Its arguments.
        args: Vec<String>,
        /// Its environment, besides ours.
        env: Vec<(String, String)>,
        /// Where its log goes.
        log: PathBuf,
    },
    /// A nats-server.
    Server {
        /// The program.
        binary: PathBuf,
        /// On what.
        options: Box<Options>,
    },
}

enum Child {
    Service(Bound),
    Server(Managed),
}

/// What is done to it.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// `kill -9`, and a new one after the pause.
    Kill(Duration),
    /// SIGSTOP, and SIGCONT after the pause.
    Stall(Duration),
    /// SIGTERM, and a new one after the pause.
    Restart(Duration),
    /// As operators do it: a server hands over first, a service gets SIGTERM; and a new one after the pause.
    Replace(Duration),
    /// SIGCONT, and a start at once if it does not run.
    Heal,
    /// SIGTERM, for good.
    End,
    /// `kill -9`, for good.
    Remove,
}

/// What became of it, told once.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Whose.
    pub name: String,
    /// How.
    pub status: String,
}

/// Ends that nobody ordered.
pub type Exits = Arc<Mutex<Vec<Exit>>>;

/// A process that is looked after.
pub struct Process {
    /// Its name, as `worker-1`.
    pub name: String,
    orders: mpsc::Sender<Order>,
    up: watch::Receiver<Vec<i64>>,
    done: tokio::task::JoinHandle<()>,
}

impl Process {
    /// Starts it.
    pub fn start(name: &str, recipe: Recipe, exits: Exits) -> Self {
        let (orders, rx) = mpsc::channel(ORDERS_MAX);
        let (tell, up) = watch::channel(Vec::new());
        let keeper =
            Keeper { name: name.to_owned(), recipe, exits, tell, child: None, start: Some(Instant::now()), go_on: None, insist: None };
        let done = tokio::spawn(keeper.run(rx));
        Self { name: name.to_owned(), orders, up, done }
    }

    /// Does something to it, soon.
    pub fn order(&self, order: Order) {
        // Refused only by one that has ended for good.
        if self.orders.try_send(order).is_err() {
            tracing::debug!(name = self.name, ?order, "an order was not taken");
        }
    }

    /// How often it was started.
    pub fn starts(&self) -> u64 {
        self.up.borrow().len() as u64
    }

    /// When it was started, each time, in milliseconds.
    pub fn started_at(&self) -> Vec<i64> {
        self.up.borrow().clone()
    }

    /// Waits until it was started more than `starts` times; whether it was.
    pub async fn started_after(&self, starts: u64, within: Duration) -> bool {
        let mut up = self.up.clone();
        matches!(tokio::time::timeout(within, up.wait_for(|all| all.len() as u64 > starts)).await, Ok(Ok(_)))
    }

    /// Waits for its end after [`Order::End`] or [`Order::Remove`].
    pub async fn ended(self) {
        // A panic in it was told already.
        let _ = self.done.await;
    }
}

struct Keeper {
    name: String,
    recipe: Recipe,
    exits: Exits,
    tell: watch::Sender<Vec<i64>>,
    child: Option<Child>,
    /// When to start it.
    start: Option<Instant>,
    /// When to let it go on.
    go_on: Option<Instant>,
    /// When to kill one that was asked to end, and how long after its end to start it; `None`: never.
    insist: Option<(Instant, Option<Duration>)>,
}

impl Keeper {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut failed = 0;
        loop {
            let at = |t: Option<Instant>| tokio::time::sleep_until(t.unwrap_or_else(Instant::now));
            tokio::select! {
                order = orders.recv() => match order {
                    None | Some(Order::Remove) => {
                        self.kill();
                        return;
                    }
                    Some(order) => self.obey(order),
                },
                () = at(self.start), if self.start.is_some() => {
                    match self.launch().await {
                        Ok(child) => {
                            (self.child, self.start, failed) = (Some(child), None, 0);
                            self.tell.send_modify(|all| all.push(clock::now().0));
                        }
                        Err(e) => {
                            failed += 1;
                            tracing::debug!(name = self.name, error = %e, "does not start");
                            if failed == STARTS_MAX {
                                self.told(format!("does not start: {e}"));
                            }
                            self.start = Some(Instant::now() + SUPERVISOR);
                        }
                    }
                }
                () = at(self.go_on), if self.go_on.is_some() => self.go_on(),
                () = at(self.insist.map(|(t, _)| t)), if self.insist.is_some() => {
                    if self.child.is_some() {
                        self.told("did not end in time when it was asked to".into());
                    }
                    if !self.ended() {
                        return;
                    }
                }
                status = wait(&mut self.child), if self.child.is_some() => {
                    if self.insist.is_none() {
                        self.told(status);
                    }
                    if !self.ended() {
                        return;
                    }
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Kill(pause) => {
                self.kill();
                self.start = Some(Instant::now() + pause);
            }
            Order::Stall(pause) => {
                self.pause(true);
                self.go_on = self.child.is_some().then(|| Instant::now() + pause);
            }
            Order::Restart(pause) => self.terminate(false, Some(pause)),
            Order::Replace(pause) => self.terminate(true, Some(pause)),
            Order::End => self.terminate(false, None),
            Order::Heal => {
                self.go_on();
                if self.start.is_some() {
                    self.start = Some(Instant::now());
                }
            }
            Order::Remove => {}
        }
    }

    fn kill(&mut self) {
        (self.start, self.go_on, self.insist) = (None, None, None);
        match self.child.take() {
            Some(Child::Service(mut child)) => child.kill(),
            Some(Child::Server(server)) => server.kill(),
            None => {}
        }
    }

    fn pause(&mut self, paused: bool) {
        match &mut self.child {
            Some(Child::Service(child)) => child.pause(paused),
            Some(Child::Server(server)) => server.pause(paused),
            None => {}
        }
    }

    fn go_on(&mut self) {
        self.pause(false);
        self.go_on = None;
    }

    /// Asks it to end; one server of several, where `hands_over`, in steps.
    fn terminate(&mut self, hands_over: bool, then: Option<Duration>) {
        // A stopped process would not hear it.
        self.go_on();
        let mut grace = GRACE;
        match &mut self.child {
            Some(Child::Service(child)) => child.terminate(),
            Some(Child::Server(server)) if hands_over => {
                server.hand_over();
                grace = HANDS_OVER;
            }
            Some(Child::Server(server)) => server.terminate(),
            // One that does not run is started, or ended, in the same way.
            None => grace = Duration::ZERO,
        }
        self.start = None;
        self.insist = Some((Instant::now() + grace, then));
    }

    /// Its process ended. False if that is for good.
    fn ended(&mut self) -> bool {
        let then = self.insist.map_or(Some(SUPERVISOR), |(_, then)| then);
        self.kill();
        self.start = then.map(|pause| Instant::now() + pause);
        then.is_some()
    }

    fn told(&self, status: String) {
        // Nobody panics while holding it.
        self.exits.lock().unwrap_or_else(PoisonError::into_inner).push(Exit { name: self.name.clone(), status });
    }

    async fn launch(&self) -> Result<Child, String> {
        match &self.recipe {
            Recipe::Service { args, env, log } => {
                let program = std::env::current_exe().map_err(|e| e.to_string())?;
                let log = std::fs::OpenOptions::new().create(true).append(true).open(log).map_err(|e| e.to_string())?;
                let mut launch = Launch::new(program).args(args).stdout(Stdio::null()).stderr(log);
                for (name, value) in env {
                    launch = launch.env(name, value);
                }
                spawn_bound(launch).map(Child::Service).map_err(|e| e.to_string())
            }
            Recipe::Server { binary, options } => {
                let started: Result<Managed, StartError> = Managed::start(binary, (**options).clone()).await;
                started.map(Child::Server).map_err(|e| e.to_string())
            }
        }
    }
}

/// Waits for its end; cancel safe.
async fn wait(child: &mut Option<Child>) -> String {
    let ended: std::io::Result<ExitStatus> = match child {
        Some(Child::Service(child)) => child.wait().await,
        Some(Child::Server(server)) => server.ended().await,
        None => std::future::pending().await,
    };
    ended.map_or_else(|e| e.to_string(), |status| status.to_string())
}
