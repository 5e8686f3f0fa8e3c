//! API tokens: all of them in memory, kept up to date by a tail of their bucket, so that a request costs
//! no round trip and a revocation is known within milliseconds. Where the tail is lost for long nobody is
//! let in by a token: a revocation may have been missed.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use haltline_common::{
    Link, clock, kv,
    tail::{self, Health, Item, Start, Tail},
    types::{
        Names, Timestamp,
        access::{StoredToken, TOKEN_PREFIX},
        ids::{sha256, untoken},
    },
};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{Denied, Principal};

/// How long tokens are believed without a sign of life of their bucket: longer than a reconnect takes.
const STALE: Duration = Duration::from_secs(30);

/// What a token of ours is called where it let somebody in.
const CREDENTIAL: &str = "token:";

/// The tokens.
pub(super) struct Tokens {
    known: RwLock<HashMap<String, StoredToken>>,
    ready: watch::Sender<bool>,
    health: Arc<Health>,
}

impl Tokens {
    /// Follows the bucket; `changes` is told of every change that can end somebody's rights.
    pub fn follow(link: &Link, changes: watch::Sender<u64>) -> (Arc<Self>, AbortOnDropHandle<()>) {
        let bucket = link.names.tokens_bucket();
        let options = tail::Options {
            stream: Names::bucket_stream(&bucket),
            filter: String::new(),
            start: Start::LastPerSubject,
            heartbeat: Duration::from_secs(1),
            buffer: 1024,
            reader: "gateway_tokens".into(),
            headers_only: false,
        };
        let tail = Tail::start(link, options);
        let tokens = Arc::new(Self { known: RwLock::default(), ready: watch::Sender::new(false), health: tail.health() });
        let task = tokio::spawn(read(tokens.clone(), tail, Names::kv_subject(&bucket, ""), changes));
        (tokens, AbortOnDropHandle::new(task))
    }

    /// Whose token this is.
    pub fn verify(&self, token: &str) -> Result<Principal, Denied> {
        self.believed()?;
        let unknown = || Denied::Invalid("the token is not known; it may have been revoked".into());
        let (id, secret) = token.strip_prefix(TOKEN_PREFIX).and_then(|t| t.split_once('_')).ok_or_else(unknown)?;
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        // The digest of something is made in either case, so that the time does not tell ids.
        let digest = sha256(secret.as_bytes());
        let stored = known.get(id).filter(|t| bool::from(t.sha256.as_bytes().ct_eq(digest.as_bytes()))).ok_or_else(unknown)?;
        let until = stored.expires_at;
        over(until)?;
        Ok(Principal {
            name: stored.name.clone(),
            role: stored.role,
            scopes: stored.scopes.clone(),
            until: until.map(time),
            credential: Some(format!("{CREDENTIAL}{id}")),
        })
    }

    /// Whether who was let in by a token of ours still may; `None` if it was not one of ours.
    pub fn still(&self, p: &Principal) -> Option<Result<(), Denied>> {
        let id = p.credential.as_deref()?.strip_prefix(CREDENTIAL)?;
        if let Err(e) = self.believed() {
            return Some(Err(e));
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let same = known.get(id).is_some_and(|t| t.role == p.role && t.scopes == p.scopes);
        Some(if same { over(known.get(id).and_then(|t| t.expires_at)) } else { Err(Denied::Invalid("the token was revoked".into())) })
    }

    /// Waits until all of them were read.
    pub async fn ready(&self, limit: Duration) -> bool {
        let mut ready = self.ready.subscribe();
        tokio::time::timeout(limit, ready.wait_for(|r| *r)).await.is_ok_and(|r| r.is_ok())
    }

    fn believed(&self) -> Result<(), Denied> {
        if !*self.ready.borrow() {
            return Err(Denied::Unavailable("the tokens are still being read; repeat".into()));
        }
        if self.health.silence() > STALE {
            return Err(Denied::Unavailable("the bucket of tokens cannot be read: one may have been revoked".into()));
        }
        Ok(())
    }
}

fn over(until: Option<Timestamp>) -> Result<(), Denied> {
    if until.is_some_and(|at| at <= clock::now()) { Err(Denied::Invalid("the token has expired".into())) } else { Ok(()) }
}

fn time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(at.0).unwrap_or(0))
}

async fn read(tokens: Arc<Tokens>, mut tail: Tail, prefix: String, changes: watch::Sender<u64>) {
    let mut items = Vec::new();
    while tail.next_many(&mut items, 256).await > 0 {
        let (mut ended, mut ready) = (false, false);
        {
            let mut known = tokens.known.write().unwrap_or_else(PoisonError::into_inner);
            for item in items.drain(..) {
                match item {
                    Item::Message(m) => {
                        let id = m.subject.strip_prefix(prefix.as_str()).and_then(untoken).unwrap_or_default();
                        let gone = m.headers.as_ref().is_some_and(kv::is_deletion);
                        let read = if gone { None } else { serde_json::from_slice::<StoredToken>(&m.payload).ok() };
                        // What cannot be read lets nobody in.
                        ended |= match read.filter(|t| t.id == id) {
                            Some(token) => known.insert(id, token).is_some(),
                            None => known.remove(&id).is_some(),
                        };
                    }
                    Item::CaughtUp { .. } => ready = true,
                    Item::Reset { .. } => {
                        known.clear();
                        ended = true;
                    }
                    Item::Lost { reason, missing } => {
                        tracing::warn!(reason, "the tail of the tokens is interrupted");
                        if missing {
                            known.clear();
                            ended = true;
                        }
                    }
                }
            }
        }
        if ready {
            tokens.ready.send_replace(true);
        }
        if ended {
            changes.send_modify(|n| *n += 1);
        }
    }
}
