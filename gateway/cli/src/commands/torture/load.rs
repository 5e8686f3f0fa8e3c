//! The load: submissions at a steady rate, through the client and through the gateway, repeated with
//! the same key until somebody answers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use haltline_client::{Client, Code, Submit};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    check::Submission,
    rng::Rng,
    shapes::{self, Shape},
};

/// Purpose of the load's numbers.
const PURPOSE: u64 = 2;
/// How long a client repeats before it counts as an error; the default of the native client.
const PATIENCE: Duration = haltline_client::TIMEOUT;
/// After an error the client asks again, until it gives up for good.
const GIVES_UP_AFTER: Duration = Duration::from_secs(90);
/// How long one request to the gateway may take.
const REQUEST: Duration = Duration::from_secs(3);
/// Between two requests to a gateway that does not answer.
const REPEAT_EVERY: Duration = Duration::from_millis(100);
/// Submissions without an answer at once; above it the load waits.
const OPEN_MAX: usize = 256;
/// Submissions that are sent again after they were answered, of a thousand.
const REPEATED: u64 = 50;

/// What was submitted and told.
#[derive(Default)]
pub struct Told {
    /// Submissions.
    pub submissions: Vec<Submission>,
    /// Milliseconds from the first request to the answer, and the least an execution takes, by execution.
    pub answers: BTreeMap<String, (f64, u64)>,
    /// Submissions that nobody answered within a client's patience, as sentences.
    pub errors: Vec<String>,
    /// Submissions so far.
    pub submitted: u64,
    /// Of these acknowledged.
    pub acknowledged: u64,
}

/// Shared by all submissions.
#[derive(Clone)]
pub struct Load {
    told: Arc<Mutex<Told>>,
    client: Client,
    http: reqwest::Client,
    gateway: String,
    seed: u64,
    shapes: Arc<Vec<Shape>>,
    rate: f64,
}

impl Load {
    /// Ready to begin.
    ///
    /// # Errors
    /// When there is no HTTP client.
    pub fn new(client: Client, gateway: &str, seed: u64, shapes: Arc<Vec<Shape>>, rate: f64) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(REQUEST).build()?;
        Ok(Self { told: Arc::default(), client, http, gateway: gateway.to_owned(), seed, shapes, rate })
    }

    /// What was told so far.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        // Nothing that holds it can panic half-way through a change.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledged(&self, id: &str, after: Duration, least_ms: u64) {
        let mut told = self.told();
        told.acknowledged += 1;
        told.answers.insert(id.to_owned(), (after.as_secs_f64() * 1e3, least_ms));
    }

    /// Submits until `stop`, then waits for the answers to what was sent.
    pub async fn run(self, stop: CancellationToken) {
        // It may have run before: keys go on where they were.
        let from = self.told().submitted;
        let mut rng = Rng::new(self.seed, PURPOSE + (from << 20));
        let open = Arc::new(Semaphore::new(OPEN_MAX));
        let mut running = JoinSet::new();
        let mut every = tokio::time::interval(Duration::from_secs_f64(1.0 / self.rate.max(0.1)));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in from.. {
            let permit = tokio::select! {
                () = stop.cancelled() => break,
                permit = async { every.tick().await; open.clone().acquire_owned().await } => permit,
            };
            let one = One { load: self.clone(), n, rng: Rng::new(self.seed, (PURPOSE << 40) + n) };
            let Some(shape) = shapes::draw(&self.shapes, &mut rng) else { break };
            let (id, cancelled) = (shape.workflow.id().to_owned(), shape.cancelled_within_ms);
            let least = shape.least_ms;
            running.spawn(async move {
                one.run(id, cancelled, least).await;
                drop(permit);
            });
            while running.try_join_next().is_some() {}
        }
        while running.join_next().await.is_some() {}
    }
}

/// What came of a request.
enum Answer {
    /// The execution's id.
    Accepted(String),
    /// For good.
    Refused(String),
    /// Nobody answered; it may have happened.
    Nobody(String),
}

/// One submission.
struct One {
    load: Load,
    n: u64,
    rng: Rng,
}

impl One {
    async fn run(mut self, workflow: String, cancelled_within_ms: Option<u64>, least_ms: u64) {
        let mut s = Submission { key: format!("torture-{}-{}", self.load.seed, self.n), workflow, ..Submission::default() };
        self.load.told().submitted += 1;
        let began = Instant::now();
        let rest = self.rng.chance(400);
        let mut turn = 0;
        let accepted = loop {
            // After an error through one door it is tried through the other one.
            let answer = if rest != (turn % 2 == 1) { self.by_rest(&s).await } else { self.by_client(&s).await };
            turn += 1;
            match answer {
                Answer::Accepted(id) => break Some(id),
                Answer::Refused(why) => {
                    s.refused = Some(why);
                    break None;
                }
                Answer::Nobody(why) => {
                    let waited = began.elapsed();
                    self.load.told().errors.push(format!("{} after {:.1} s: {why}", s.key, waited.as_secs_f64()));
                    if waited > GIVES_UP_AFTER {
                        break None;
                    }
                }
            }
        };
        if let Some(id) = accepted {
            self.load.acknowledged(&id, began.elapsed(), least_ms);
            s.told.insert(id.clone());
            if let Some(ms) = cancelled_within_ms {
                tokio::time::sleep(self.rng.millis(0, ms)).await;
                s.cancelled = true;
                // Whether it is heard decides how it ends, and either is fine.
                let _ = self.load.client.cancel(&id, "torture", "torture").await;
            }
            if self.rng.chance(REPEATED) {
                tokio::time::sleep(self.rng.millis(0, 3000)).await;
                if let Answer::Accepted(again) = self.by_client(&s).await {
                    s.told.insert(again);
                }
            }
        }
        self.load.told().submissions.push(s);
    }

    async fn by_client(&self, s: &Submission) -> Answer {
        let submit = Submit {
            workflow_id: s.workflow.clone().into(),
            version: Some("1".into()),
            input: Value::Null,
            bot_id: None,
            strategy_id: None,
            key: s.key.clone().into(),
            notify: None,
        };
        match self.load.client.submit(submit).await {
            Ok(accepted) => Answer::Accepted(accepted.execution_id.to_string()),
            Err(e) if matches!(e.code, Code::Unavailable | Code::ControlUnsure | Code::Overloaded | Code::Internal) => {
                Answer::Nobody(e.message)
            }
            Err(e) => Answer::Refused(e.message),
        }
    }

    /// A client of the gateway repeats what was not answered, and what was answered with "later".
    async fn by_rest(&self, s: &Submission) -> Answer {
        let until = Instant::now() + PATIENCE;
        let url = format!("{}/v1/executions", self.load.gateway);
        let body = json!({ "workflow_id": s.workflow, "version": "1" });
        loop {
            let why = match self.load.http.post(&url).header("idempotency-key", &s.key).json(&body).send().await {
                Err(e) => e.without_url().to_string(),
                Ok(response) => {
                    let status = response.status();
                    let answer: Value = response.json().await.unwrap_or_default();
                    match answer["execution_id"].as_str() {
                        Some(id) if status.is_success() => return Answer::Accepted(id.to_owned()),
                        _ if status.is_success() || status.is_server_error() || status.as_u16() == 429 => format!("{status}: {answer}"),
                        _ => return Answer::Refused(format!("{status}: {answer}")),
                    }
                }
            };
            if Instant::now() > until {
                return Answer::Nobody(why);
            }
            tokio::time::sleep(REPEAT_EVERY).await;
        }
    }
}
