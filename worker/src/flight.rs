//! What the tasks of a worker share: tasks in flight with their progress acknowledgements, stops
//! that were heard, slots by type.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::Subject;
use haltline_common::{
    Link,
    control_watch::ControlWatch,
    metrics,
    planted::{Bug, planted},
    publisher::Publisher,
    risk::Door,
    topology::TASK_ACK_WAIT,
    types::event::Command,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{acks::Acks, arrivals::Arrivals, payloads::Payloads, registry::Registry};

/// Cancels and time-outs remembered for tasks that are still on their way; older ones are in the log.
const STOPS_MAX: usize = 10_000;
/// Deliveries remembered, so that one that comes twice is run once; a repeat comes at once or never.
const CAME_MAX: usize = 10_000;
/// A task younger than this needs no sign of progress yet.
const PROGRESS_AFTER: Duration = Duration::from_millis(350);

/// Shared by all tasks of a worker.
pub struct Flight {
    /// The connection.
    pub link: Link,
    /// The worker's id.
    pub worker_id: String,
    /// Writes of events.
    pub publisher: Publisher,
    /// The guard.
    pub control: ControlWatch,
    /// Node types.
    pub registry: Registry,
    /// What side effects reserve from.
    pub door: Door,
    /// Slots by type.
    pub slots: HashMap<String, Arc<Semaphore>>,
    /// The worker takes no new work and starts no further node.
    pub draining: CancellationToken,
    /// The worker gives up what still runs.
    pub abandon: CancellationToken,
    /// Tasks finished.
    pub done: AtomicU64,
    /// What is known about deliveries.
    pub arrivals: Arrivals,
    /// Acknowledgements that are to leave.
    pub acks: Acks,
    /// What is too large for a message.
    pub payloads: Payloads,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    running: HashMap<u64, Running>,
    /// Digests of the acknowledgement subjects of deliveries that came.
    came: HashSet<u64>,
    came_in_order: VecDeque<u64>,
    stopped: VecDeque<Command>,
}

struct Running {
    execution_id: String,
    reply: Subject,
    since: Instant,
    /// When the server was last told of progress.
    renewed: Instant,
    cancel: CancellationToken,
}

impl Running {
    /// Whether the server cannot have given the task to someone else yet, for want of progress.
    fn is_held(&self) -> bool {
        self.renewed.elapsed() < TASK_ACK_WAIT || planted(Bug::LateResult)
    }
}

impl Flight {
    /// Nothing in flight.
    #[allow(clippy::too_many_arguments, reason = "built in one place, from parts of different kinds")]
    pub fn new(
        link: Link,
        worker_id: String,
        publisher: Publisher,
        control: ControlWatch,
        registry: Registry,
        door: Door,
        slots: HashMap<String, Arc<Semaphore>>,
        draining: CancellationToken,
    ) -> Self {
        Self {
            payloads: Payloads::new(link.clone()),
            link,
            worker_id,
            publisher,
            control,
            registry,
            door,
            slots,
            draining,
            abandon: CancellationToken::new(),
            done: AtomicU64::new(0),
            arrivals: Arrivals::default(),
            acks: Acks::default(),
            tasks: Mutex::new(Tasks::default()),
        }
    }

    /// The lock is never held across anything that can panic or wait.
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Enters a task; the token it gives fires when its execution is cancelled. `None` if this very
    /// delivery came before.
    pub fn enter(self: &Arc<Self>, execution_id: &str, reply: Subject) -> Option<Entered> {
        let cancel = self.abandon.child_token();
        let now = Instant::now();
        let mut tasks = self.tasks();
        let delivery = digest(&reply);
        if !tasks.came.insert(delivery) {
            return None;
        }
        tasks.came_in_order.push_back(delivery);
        if tasks.came_in_order.len() > CAME_MAX
            && let Some(old) = tasks.came_in_order.pop_front()
        {
            tasks.came.remove(&old);
        }
        tasks.next += 1;
        let id = tasks.next;
        if tasks.stopped.iter().any(|c| c.execution_id == execution_id) {
            cancel.cancel();
        }
        let running = Running { execution_id: execution_id.to_owned(), reply, since: now, renewed: now, cancel: cancel.clone() };
        tasks.running.insert(id, running);
        metrics::TASKS_IN_FLIGHT.set(tasks.running.len() as u64);
        Some(Entered { flight: self.clone(), id, cancel })
    }

    /// Tasks in flight.
    pub fn len(&self) -> usize {
        self.tasks().running.len()
    }

    /// A cancel or time-out was heard.
    pub fn hear_stop(&self, command: Command) {
        let mut tasks = self.tasks();
        for running in tasks.running.values().filter(|r| r.execution_id == command.execution_id) {
            running.cancel.cancel();
        }
        if tasks.stopped.len() >= STOPS_MAX {
            tasks.stopped.pop_front();
        }
        tasks.stopped.push_back(command);
    }

    /// The cancel or time-out of an execution, if it was heard.
    pub fn stopped(&self, execution_id: &str) -> Option<Command> {
        self.tasks().stopped.iter().find(|c| c.execution_id == execution_id).cloned()
    }

    /// Whether no other worker can have that task for want of progress. `false` for good once it was.
    pub fn is_held(&self, id: u64) -> bool {
        self.tasks().running.get(&id).is_some_and(Running::is_held)
    }

    /// Tells the server that tasks in flight are being worked on, so that no other worker gets them.
    pub async fn report_progress(&self) {
        let mut replies = Vec::new();
        for running in self.tasks().running.values_mut().filter(|r| r.since.elapsed() >= PROGRESS_AFTER) {
            if running.is_held() {
                running.renewed = Instant::now();
                replies.push(running.reply.clone());
            } else {
                // This process did not run for too long: what the node still does is for nothing.
                running.cancel.cancel();
            }
        }
        for reply in replies {
            if self.link.client.publish(reply, "+WPI".into()).await.is_err() {
                return;
            }
        }
    }
}

/// A task in flight; leaves when dropped.
pub struct Entered {
    flight: Arc<Flight>,
    id: u64,
    /// Fires when the execution is cancelled, its time is over, or the worker gives up.
    pub cancel: CancellationToken,
}

impl Entered {
    /// Its number among the tasks of this process.
    pub fn id(&self) -> u64 {
        self.id
    }
    /// Whether no other worker can have the task for want of progress. `false` for good once it was.
    pub fn is_held(&self) -> bool {
        self.flight.is_held(self.id)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut tasks = self.flight.tasks();
        tasks.running.remove(&self.id);
        metrics::TASKS_IN_FLIGHT.set(tasks.running.len() as u64);
        self.flight.done.fetch_add(1, Ordering::Relaxed);
    }
}

fn digest(subject: &Subject) -> u64 {
    let mut hasher = DefaultHasher::new();
    subject.as_str().hash(&mut hasher);
    hasher.finish()
}
