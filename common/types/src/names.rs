//! Every name on the server: streams, buckets, consumers, subjects. The only file with subject
//! literals. All carry the namespace, so that installs can share a cluster.
//!
//! | subject | what |
//! |---|---|
//! | `<ns>.events.<shard>.note.<execution>` | events that only tell |
//! | `<ns>.events.<shard>.input.<execution>` | events that decide: node results |
//! | `<ns>.events.<shard>.input.<execution>.command` | commands, stored before they are acted on |
//! | `<ns>.events.control.note.global` | changes of the control flag |
//! | `<ns>.events.control.note.risk` | warnings and breaches of risk limits |
//! | `<ns>.tasks.<type>.<shard>.<execution>` | tasks |
//! | `<ns>.audit.control` | what happened to control flags, chained |
//! | `<ns>.sync_probe` | nothing: writes that measure when the server syncs |
//! | `<ns>.submit.<shard>`, `<ns>.cancel.<shard>`, `<ns>.resolve.<shard>` | requests to a coordinator (core NATS) |
//! | `<ns>.coordinator` | asks coordinators who they are (core NATS) |
//! | `<ns>.coordinators` | coordinators' signs of life, for each other (core NATS) |
//! | `<ns>.seen.<worker>` | what a worker has seen of flags and has in flight, for who waits for a confirmation (core NATS) |
//! | `<ns>.stop.<execution>` | hint to workers that an execution was cancelled (core NATS) |

use crate::ids::{shard_of, token, untoken};

/// Names under one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    ns: String,
    shards: u32,
}

/// How many shards an installation has. Part of the subjects: fixed for its life.
pub const SHARDS: u32 = 8;

impl Names {
    /// Names under `namespace`: 1 to 32 letters, digits or `-`.
    pub fn new(namespace: &str) -> Result<Self, String> {
        let fine = !namespace.is_empty() && namespace.len() <= 32 && namespace.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !fine {
            return Err(format!("namespace `{namespace}` must be 1 to 32 letters, digits or `-`"));
        }
        Ok(Self { ns: namespace.to_owned(), shards: SHARDS })
    }
    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.ns
    }
    /// How many shards.
    pub fn shards(&self) -> u32 {
        self.shards
    }
    /// The shard of an execution.
    pub fn shard(&self, execution_id: &str) -> u32 {
        shard_of(execution_id, self.shards)
    }

    /// Stream of events and commands: the log.
    pub fn events_stream(&self) -> String {
        format!("{}_events", self.ns)
    }
    /// Stream of tasks.
    pub fn tasks_stream(&self) -> String {
        format!("{}_tasks", self.ns)
    }
    /// Stream of the audit: what happened to control flags, chained.
    pub fn audit_stream(&self) -> String {
        format!("{}_audit", self.ns)
    }
    /// Subject of its entries.
    pub fn audit(&self) -> String {
        format!("{}.audit.control", self.ns)
    }
    /// Stream that only measures.
    pub fn sync_probe_stream(&self) -> String {
        format!("{}_sync_probe", self.ns)
    }
    /// Subject of what is written to measure.
    pub fn sync_probe(&self) -> String {
        format!("{}.sync_probe", self.ns)
    }
    /// Where a worker whose guard is watched tells when it refused; not stored.
    pub fn guard_told(&self) -> String {
        format!("{}.guard.told", self.ns)
    }
    /// Where a worker whose guard is watched is asked how long a check takes; not stored.
    pub fn guard_timed(&self, worker_id: &str) -> String {
        format!("{}.guard.timed.{}", self.ns, token(worker_id))
    }
    /// Bucket of records.
    pub fn executions_bucket(&self) -> String {
        format!("{}_executions", self.ns)
    }
    /// Bucket of definitions.
    pub fn definitions_bucket(&self) -> String {
        format!("{}_definitions", self.ns)
    }
    /// Bucket of the control flag.
    pub fn control_bucket(&self) -> String {
        format!("{}_control", self.ns)
    }
    /// Bucket of workers' presence.
    pub fn workers_bucket(&self) -> String {
        format!("{}_workers", self.ns)
    }
    /// Bucket of node types that workers added.
    pub fn types_bucket(&self) -> String {
        format!("{}_types", self.ns)
    }
    /// Bucket of coordinators' checkpoints.
    pub fn checkpoints_bucket(&self) -> String {
        format!("{}_checkpoints", self.ns)
    }
    /// Bucket of what risk limits count.
    pub fn risk_bucket(&self) -> String {
        format!("{}_risk", self.ns)
    }
    /// Object store of payloads that are too large for a message.
    pub fn payloads_bucket(&self) -> String {
        format!("{}_payloads", self.ns)
    }
    /// The stream behind an object store.
    pub fn object_stream(bucket: &str) -> String {
        format!("OBJ_{bucket}")
    }
    /// The subjects of an object store: pieces, and what they belong to.
    pub fn object_subjects(bucket: &str) -> [String; 2] {
        [format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")]
    }
    /// Bucket of gateways' API tokens.
    pub fn tokens_bucket(&self) -> String {
        format!("{}_tokens", self.ns)
    }
    /// Stream of what is on record about access.
    pub fn access_stream(&self) -> String {
        format!("{}_access", self.ns)
    }
    /// Subject of an entry of that stream.
    pub fn access(&self, outcome: &str) -> String {
        format!("{}.access.{}", self.ns, token(outcome))
    }
    /// All of them.
    pub fn access_all(&self) -> String {
        format!("{}.access.>", self.ns)
    }
    /// The stream behind a bucket.
    pub fn bucket_stream(bucket: &str) -> String {
        format!("KV_{bucket}")
    }
    /// Key of the lease of one life of a worker, in the control bucket.
    pub fn lease_key(worker_id: &str, instance: &str) -> String {
        format!("lease.{}.{instance}", token(worker_id))
    }
    /// Key under which the same life says what it has seen, where that renews nothing: its own watch does not carry it.
    pub fn seen_key(lease_key: &str) -> String {
        format!("{lease_key}.seen")
    }
    /// Where a worker says at once what it has seen; not stored.
    pub fn seen(&self, worker_id: &str) -> String {
        format!("{}.seen.{}", self.ns, token(worker_id))
    }
    /// Where all of them do.
    pub fn seen_all(&self) -> String {
        format!("{}.seen.*", self.ns)
    }
    /// Where it is said that a flag is about to be raised; not stored.
    pub fn raising(&self) -> String {
        format!("{}.raising", self.ns)
    }
    /// All keys of leases.
    pub fn leases(&self) -> String {
        Self::kv_subject(&self.control_bucket(), "lease.>")
    }
    /// All keys of flags.
    pub fn flags(&self) -> String {
        Self::kv_subject(&self.control_bucket(), "halt.>")
    }
    /// The subject of a key of a bucket.
    pub fn kv_subject(bucket: &str, key: &str) -> String {
        ["$KV.", bucket, ".", key].concat()
    }

    /// All subjects of the log.
    pub fn events_all(&self) -> String {
        format!("{}.events.>", self.ns)
    }
    /// By concatenation: one allocation, on the path of every message.
    fn event(&self, what: &str, execution_id: &str, after: &str) -> String {
        [&self.ns, ".events.", self.shard_token(execution_id), ".", what, ".", &token(execution_id), after].concat()
    }
    fn shard_token(&self, execution_id: &str) -> &'static str {
        const TOKENS: [&str; SHARDS as usize] = ["0", "1", "2", "3", "4", "5", "6", "7"];
        TOKENS[self.shard(execution_id) as usize % TOKENS.len()]
    }
    /// What is read of one shard's part of the log.
    pub fn inputs_of_shard(&self, shard: u32) -> String {
        format!("{}.events.{shard}.input.>", self.ns)
    }
    /// What is read of all shards' parts of the log.
    pub fn inputs(&self) -> String {
        format!("{}.events.*.input.>", self.ns)
    }
    /// The shard of a subject of the log.
    pub fn shard_of_subject(subject: &str) -> Option<u32> {
        subject.split('.').nth(2)?.parse().ok()
    }
    /// Events that only tell.
    pub fn note(&self, execution_id: &str) -> String {
        self.event("note", execution_id, "")
    }
    /// All events that only tell.
    pub fn notes_all(&self) -> String {
        format!("{}.events.*.note.>", self.ns)
    }
    /// Events that decide, and the execution's start where a worker tells it.
    pub fn input(&self, execution_id: &str) -> String {
        self.event("input", execution_id, "")
    }
    /// Commands.
    pub fn command(&self, execution_id: &str) -> String {
        self.event("input", execution_id, ".command")
    }
    /// The execution, as its token, that a subject of the log belongs to; `None` for control events.
    pub fn execution_token(subject: &str) -> Option<&str> {
        let mut tokens = subject.split('.').skip(2);
        let shard = tokens.next()?;
        tokens.nth(1).filter(|_| shard != "control")
    }
    /// Whether a subject of the log is a command's.
    pub fn is_command(subject: &str) -> bool {
        subject.ends_with(".command") && subject.bytes().filter(|b| *b == b'.').count() == 5
    }
    /// All events of an execution, notes and inputs, without commands.
    pub fn events_of(&self, execution_id: &str) -> String {
        self.event("*", execution_id, "")
    }
    /// Everything the log has of an execution: notes, inputs and commands.
    pub fn log_of(&self, execution_id: &str) -> [String; 3] {
        [self.note(execution_id), self.input(execution_id), self.command(execution_id)]
    }
    /// Changes of the control flag, as events.
    pub fn control_events(&self) -> String {
        format!("{}.events.control.note.global", self.ns)
    }
    /// Warnings and breaches of risk limits, as events.
    pub fn risk_events(&self) -> String {
        format!("{}.events.control.note.risk", self.ns)
    }
    /// All events, without commands.
    pub fn events_only(&self) -> String {
        format!("{}.events.*.*.*", self.ns)
    }
    /// All rules of risk limits, in the control bucket.
    pub fn risk_rules(&self) -> String {
        Self::kv_subject(&self.control_bucket(), "risk.>")
    }
    /// The key that a bucket's subject is about.
    pub fn key_of<'s>(bucket: &str, subject: &'s str) -> Option<&'s str> {
        subject.strip_prefix("$KV.")?.strip_prefix(bucket)?.strip_prefix('.')
    }

    /// All tasks.
    pub fn tasks_all(&self) -> String {
        format!("{}.tasks.>", self.ns)
    }
    /// Tasks of a type.
    pub fn tasks_of_type(&self, kind: &str) -> String {
        format!("{}.tasks.{kind}.>", self.ns)
    }
    /// A task.
    pub fn task(&self, kind: &str, execution_id: &str) -> String {
        [&self.ns, ".tasks.", kind, ".", self.shard_token(execution_id), ".", &token(execution_id)].concat()
    }
    /// All tasks of an execution.
    pub fn tasks_of(&self, execution_id: &str) -> String {
        format!("{}.tasks.*.{}.{}", self.ns, self.shard(execution_id), token(execution_id))
    }
    /// The durable consumer of a type's tasks.
    pub fn task_consumer(kind: &str) -> String {
        format!("tasks_{kind}")
    }
    /// The type whose tasks a durable consumer delivers.
    pub fn type_of_task_consumer(consumer: &str) -> Option<&str> {
        consumer.strip_prefix("tasks_")
    }

    /// Submissions to a shard's coordinator.
    pub fn submit(&self, shard: u32) -> String {
        format!("{}.submit.{shard}", self.ns)
    }
    /// Cancels to a shard's coordinator.
    pub fn cancel(&self, shard: u32) -> String {
        format!("{}.cancel.{shard}", self.ns)
    }
    /// Resolutions to a shard's coordinator.
    pub fn resolve(&self, shard: u32) -> String {
        format!("{}.resolve.{shard}", self.ns)
    }
    /// Asks coordinators who they are: answered once every shard has one.
    pub fn coordinator(&self) -> String {
        format!("{}.coordinator", self.ns)
    }
    /// Coordinators' signs of life, for each other.
    pub fn coordinators(&self) -> String {
        format!("{}.coordinators", self.ns)
    }
    /// Hint that an execution was cancelled.
    pub fn stop(&self, execution_id: &str) -> String {
        format!("{}.stop.{}", self.ns, token(execution_id))
    }
    /// All such hints.
    pub fn stop_all(&self) -> String {
        format!("{}.stop.*", self.ns)
    }

    /// Key of a shard's checkpoint.
    pub fn shard_checkpoint_key(shard: u32) -> String {
        format!("shard.{shard}")
    }
    /// Subject filter of all pointers to latest versions.
    pub fn latest_all(&self) -> String {
        Self::kv_subject(&self.definitions_bucket(), "*.latest")
    }
    /// The id of the execution whose record has this subject.
    pub fn record_of(subject: &str) -> Option<String> {
        untoken(subject.rsplit('.').next()?)
    }
    /// Key of a definition's version.
    pub fn definition_key(workflow_id: &str, version: &str) -> String {
        format!("{}.v.{}", token(workflow_id), token(version))
    }
    /// Keys of all versions of a definition.
    pub fn definitions_of(workflow_id: &str) -> String {
        format!("{}.v.*", token(workflow_id))
    }
    /// The version whose definition has this subject.
    pub fn version_of(subject: &str) -> Option<String> {
        untoken(subject.rsplit('.').next()?)
    }
    /// Key of the pointer to a workflow's latest version.
    pub fn latest_key(workflow_id: &str) -> String {
        format!("{}.latest", token(workflow_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_ids_stay_in_their_token() {
        let n = Names::new("haltline").expect("valid");
        for id in ["exec_a.b_1", "exec_*_1", "exec_>_1", "exec_ _1", "exec_x.command_1"] {
            assert_eq!(n.input(id).split('.').count(), 5, "{id}");
            assert_eq!(n.task("http", id).split('.').count(), 5);
            assert!(!Names::is_command(&n.input(id)));
            assert!(Names::is_command(&n.command(id)));
            for subject in [n.input(id), n.note(id), n.command(id)] {
                assert_eq!(Names::execution_token(&subject), Some(token(id).as_str()));
                assert_eq!(Names::shard_of_subject(&subject), Some(n.shard(id)));
            }
        }
        assert_eq!(Names::execution_token(&n.control_events()), None);
        assert_eq!(Names::execution_token(&n.risk_events()), None);
        assert_eq!(Names::key_of("t_risk", "$KV.t_risk.reserved.bot.b"), Some("reserved.bot.b"));
        assert_eq!(Names::key_of("t_risk", "$KV.t_risks.reserved"), None);
        for bad in ["", "a.b", "a b", "a_b", "*"] {
            assert!(Names::new(bad).is_err(), "{bad}");
        }
    }
}
