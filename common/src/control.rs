//! Changing control flags: everybody who raises or lowers one does it here. Always by
//! compare-and-swap, so that of two who change a flag at once neither overwrites the other unseen.

use std::time::Duration;

use haltline_types::{
    Names,
    control::{Actor, ControlValue, Flag, Level, Scope},
    error::{ApiError, Code},
    limits::{REASONS_BYTES_MAX, TEXT_BYTES_MAX},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Link, clock,
    control_watch::raising,
    js::{self, ApiFailure},
    kv,
};

/// Tries that a change makes against concurrent changes and lost answers.
const TRIES_MAX: usize = 20;
/// How long one write may take to be answered before it is looked at whether it was stored.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A flag as it was stored, or found to be stored already.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    /// What it covers.
    pub scope: Scope,
    /// The revision of the control bucket.
    pub revision: u64,
    /// What is stored.
    pub value: ControlValue,
    /// What was there before.
    pub previous: Flag,
    /// When the server's answer was here, by [`clock::boot`]: what waiting for leases is counted from.
    #[serde(skip)]
    pub answered: Duration,
}

impl Stored {
    /// The flag as readers understand it.
    pub fn flag(&self) -> Flag {
        Flag {
            state: self.value.state,
            reason: self.value.reason.clone(),
            by: self.value.by.clone(),
            verified: self.value.verified,
            at: self.value.at,
            revision: self.revision,
            scope: self.scope.clone(),
        }
    }
}

/// A scope's flag as it is stored now, asked from the stream's leader.
///
/// # Errors
/// `Unavailable` if nats-server does not answer: whether there is a halt is not known then.
pub async fn read(link: &Link, scope: &Scope) -> Result<Flag, ApiError> {
    read_below(link, scope, Level::Halt).await
}

/// The same where only what lies below `level` matters: whether a value replaced the one before it is asked only of one that
/// says less, since at worst it counts as a halt.
async fn read_below(link: &Link, scope: &Scope, level: Level) -> Result<Flag, ApiError> {
    let bucket = link.names.control_bucket();
    let Some(entry) = kv::get(link, &bucket, &scope.key()).await? else { return Ok(Flag::unwritten(scope)) };
    let value = entry.value.as_deref();
    let says = value.and_then(|v| serde_json::from_slice::<ControlValue>(v).ok()).filter(|v| v.state < level);
    let before = match says.and_then(|v| v.replaces) {
        Some(replaces) if replaces < entry.revision => value_before(link, scope, entry.revision, replaces).await?,
        _ => None,
    };
    Ok(Flag::read(scope, value, entry.revision, None, before))
}

/// The revision of the key's value before `revision`, as far as it must be known to judge whether the
/// value replaces `replaces`: that one itself, another that lies between, or `None` if it has gone.
async fn value_before(link: &Link, scope: &Scope, revision: u64, replaces: u64) -> Result<Option<u64>, ApiError> {
    let subject = Names::kv_subject(&link.names.control_bucket(), &scope.key());
    let next = json!({ "seq": replaces + 1, "next_by_subj": subject });
    let at = async {
        match replaces {
            0 => Ok(None),
            _ => ask(link, &json!({ "seq": replaces })).await,
        }
    };
    let (next, at) = tokio::try_join!(ask(link, &next), at)?;
    if let Some(between) = next.filter(|m| m.seq < revision) {
        return Ok(Some(between.seq));
    }
    if replaces == 0 {
        return Ok(Some(0));
    }
    Ok(match at {
        Some(m) if m.subject == subject => Some(replaces),
        // Another key's: no revision of this one.
        Some(_) => Some(0),
        None => None,
    })
}

#[derive(Deserialize)]
struct Asked {
    message: Located,
}

#[derive(Deserialize)]
struct Located {
    subject: String,
    seq: u64,
}

async fn ask(link: &Link, what: &Value) -> Result<Option<Located>, ApiError> {
    let stream = Names::bucket_stream(&link.names.control_bucket());
    match js::api::<Asked>(link, &format!("STREAM.MSG.GET.{stream}"), what).await {
        Ok(asked) => Ok(Some(asked.message)),
        // 10037: no message found.
        Err(ApiFailure::Answered { err_code: 10037, .. }) => Ok(None),
        Err(e) => Err(kv::unavailable(e)),
    }
}

/// Raises a scope to `level`, or keeps it where it is graver; what is stored then.
///
/// The reason is appended to those of a flag that was raised already, and never dropped: the value
/// keeps the first and the latest of them within [`REASONS_BYTES_MAX`], the key's history all.
/// Repeated until the server answers, some twenty times.
///
/// # Errors
/// `Invalid` for `normal`, an empty reason or one that is too long; `Unavailable` if nats-server does not
/// answer: the change may still be stored.
pub async fn raise(link: &Link, scope: &Scope, level: Level, by: impl Into<Actor>, reason: &str) -> Result<Stored, ApiError> {
    if level == Level::Normal {
        return Err(ApiError::invalid("level", "must be graver than normal; lower a flag to get there"));
    }
    let (by, reason) = (by.into(), check(reason)?);
    change(link, scope, &by, Some(level), |current| {
        let state = level.max(current.state);
        let reason = if current.state == Level::Normal || current.reason.is_empty() {
            reason.to_owned()
        } else {
            append(&current.reason, &if level < current.state { format!("({level}) {reason}") } else { reason.to_owned() })
        };
        Ok((state, reason))
    })
    .await
}

/// Lowers a scope's flag to `level`, if it is still at `revision`; what is stored then.
///
/// From `shutdown` this needs a second confirmation: the scope once more, as a text.
///
/// # Errors
/// `Conflict` if the flag is not at `revision` any more; `Invalid` if `level` is not below it or a
/// shutdown was to be left without the second confirmation; `Unavailable` as for [`raise`].
pub async fn lower(
    link: &Link,
    scope: &Scope,
    level: Level,
    by: impl Into<Actor>,
    reason: &str,
    revision: u64,
    confirmed: Option<&str>,
) -> Result<Stored, ApiError> {
    let (by, reason) = (by.into(), check(reason)?);
    change(link, scope, &by, None, |current| {
        if current.revision != revision {
            let message = format!("{scope} is not at revision {revision} any more but at {}: {}", current.revision, current.sentence());
            return Err(ApiError { field: Some("revision".into()), ..ApiError::new(Code::Conflict, message) });
        }
        if level > current.state {
            return Err(ApiError::invalid("level", format!("{level} is graver than {}; raise it", current.state)));
        }
        if current.state == Level::Shutdown && confirmed != Some(scope.to_string().as_str()) {
            let message = format!("leaving a shutdown needs a second confirmation: give `{scope}`");
            return Err(ApiError { field: Some("confirm".into()), ..ApiError::new(Code::Conflict, message) });
        }
        Ok((level, reason.to_owned()))
    })
    .await
}

/// Sets a scope's flag to `level`, whatever it is now: [`raise`] or, for `normal`, [`lower`] from the
/// revision that is there. What is stored then, which may be graver than what was asked for.
///
/// # Errors
/// Those of the two; `Conflict` for `alert` while it is graver than that: it would re-enable nothing.
pub async fn set(link: &Link, scope: &Scope, level: Level, by: impl Into<Actor>, reason: &str) -> Result<Stored, ApiError> {
    let current = read(link, scope).await?;
    match level {
        Level::Normal => lower(link, scope, level, by, reason, current.revision, None).await,
        Level::Alert if !current.state.runs() => {
            let message = format!("alert would lower {}; resume to normal first", current.state);
            Err(ApiError::new(Code::Conflict, message))
        }
        _ => raise(link, scope, level, by, reason).await,
    }
}

/// What is to run when a scope is halted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnHaltRun {
    /// The workflow: its nodes must be allowed while halted.
    pub workflow: String,
    /// Its input; `halt` is added: scope, state, reason, revision.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub input: Map<String, Value>,
}

fn on_halt_key(scope: &Scope) -> String {
    format!("on_{}", scope.key())
}

/// What is to run when `scope` is halted, if anything.
///
/// # Errors
/// `Unavailable` if nats-server does not answer, `Internal` for a value that is none.
pub async fn on_halt_run(link: &Link, scope: &Scope) -> Result<Option<OnHaltRun>, ApiError> {
    let entry = kv::get(link, &link.names.control_bucket(), &on_halt_key(scope)).await?;
    let Some(value) = entry.and_then(|e| e.value).filter(|v| &v[..] != b"null") else { return Ok(None) };
    serde_json::from_slice(&value).map(Some).map_err(|e| ApiError::new(Code::Internal, format!("{}: {e}", on_halt_key(scope))))
}

/// Sets what is to run when `scope` is halted; `None` for nothing.
///
/// # Errors
/// `Unavailable` if nats-server does not answer, `Conflict` if someone else sets it at this moment.
pub async fn set_on_halt_run(link: &Link, scope: &Scope, run: Option<&OnHaltRun>) -> Result<u64, ApiError> {
    let (bucket, key) = (link.names.control_bucket(), on_halt_key(scope));
    let revision = kv::get(link, &bucket, &key).await?.map_or(0, |e| e.revision);
    let body = serde_json::to_vec(&run).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
    kv::swap_once(link, &bucket, &key, revision, body).await
}

fn check(reason: &str) -> Result<&str, ApiError> {
    let reason = reason.trim();
    if reason.is_empty() {
        return Err(ApiError::invalid("reason", "say why"));
    }
    if reason.len() > TEXT_BYTES_MAX {
        return Err(ApiError::invalid("reason", format!("is longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(reason)
}

/// One reason after the others. Where they get too long, what is in the middle stays in the key's
/// history only.
fn append(reasons: &str, reason: &str) -> String {
    const CUT: &str = "; (more in the key's history)";
    if reasons == reason || reasons.ends_with(&format!("; {reason}")) {
        return reasons.to_owned();
    }
    let room = REASONS_BYTES_MAX - reason.len() - 2;
    if reasons.len() <= room {
        return format!("{reasons}; {reason}");
    }
    let first = reasons.split(CUT).next().unwrap_or(reasons);
    let kept = first.floor_char_boundary((room - CUT.len()).min(first.len()));
    format!("{}{CUT}; {reason}", &first[..kept])
}

/// Reads, decides, swaps; again if someone else was faster. A write without an answer is looked for
/// before it is repeated. One that raises is announced with each try.
async fn change(
    link: &Link,
    scope: &Scope,
    by: &Actor,
    raising: Option<Level>,
    decide: impl Fn(&Flag) -> Result<(Level, String), ApiError>,
) -> Result<Stored, ApiError> {
    if by.name.trim().is_empty() || by.name.len() > TEXT_BYTES_MAX {
        return Err(ApiError::invalid("by", format!("must have 1 to {TEXT_BYTES_MAX} bytes")));
    }
    let (bucket, key) = (link.names.control_bucket(), scope.key());
    let mut last = ApiError::new(Code::Conflict, "the flag is being changed by others; nothing was written");
    let mut sent: Vec<(ControlValue, Flag)> = Vec::new();
    for _ in 0..TRIES_MAX {
        if let Some(state) = raising {
            raising::announce(link, scope, state).await;
        }
        // Over what is there a halt is a halt, whatever that counts as: it is not asked for, which takes as long as all the rest.
        let below = if raising.is_some_and(|level| level >= Level::Halt) { Level::Normal } else { Level::Halt };
        let current = match read_below(link, scope, below).await {
            Ok(current) => current,
            Err(e) => {
                last = e;
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Some((value, previous)) = sent.iter().find(|(v, _)| current.at == v.at && current.by == v.by && current.reason == v.reason) {
            // Stored by a try that was not answered.
            let (value, previous) = (value.clone(), previous.clone());
            return Ok(Stored { scope: scope.clone(), revision: current.revision, value, previous, answered: clock::boot() });
        }
        let (state, reason) = decide(&current)?;
        let value = ControlValue {
            state,
            reason,
            by: by.name.trim().to_owned(),
            verified: by.verified,
            at: Some(clock::now()),
            replaces: Some(current.revision),
        };
        let body = serde_json::to_vec(&value).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        let swap = kv::swap_once(link, &bucket, &key, current.revision, body);
        match tokio::time::timeout(ANSWER_WITHIN, swap).await {
            Ok(Ok(revision)) => {
                return Ok(Stored { scope: scope.clone(), revision, value, previous: current, answered: clock::boot() });
            }
            Ok(Err(e)) if e.code == Code::Conflict => {}
            Ok(Err(e)) => last = e,
            Err(_) => last = ApiError::new(Code::Unavailable, "nats-server did not answer in time; the change may still be stored"),
        }
        sent.push((value, current));
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_appended_within_their_bound() {
        assert_eq!(append("a", "b"), "a; b");
        assert_eq!(append("a; b", "b"), "a; b", "the same again says nothing new");
        let mut all = "the first reason".to_owned();
        for i in 0..100 {
            all = append(&all, &format!("{i} {}", "x".repeat(900)));
            assert!(all.len() <= REASONS_BYTES_MAX, "{}", all.len());
            assert!(all.starts_with("the first reason") && all.contains(&format!("; {i} xxx")), "{i}");
        }
        assert_eq!(all.matches("more in the key's history").count(), 1);
    }
}
