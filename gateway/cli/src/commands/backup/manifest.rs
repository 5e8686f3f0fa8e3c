//! What a backup says of itself: written last, so that a folder without it is no backup.

use std::{fs, io::Write, path::Path};

use haltline_common::types::{
    Names, Timestamp,
    control::Flag,
    error::{ApiError, Code},
};
use serde::{Deserialize, Serialize};

use super::archive;

/// The manifest's file.
pub const FILE: &str = "haltline-backup.json";
/// The archive of a stream, in the stream's folder; its name is that of the nats CLI.
pub const ARCHIVE: &str = "stream.arc.s2";
/// Its configuration and state, likewise.
pub const CONFIG: &str = "backup.json";
/// Version of this form.
pub const FORMAT: u32 = 1;

/// The manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub format: u32,
    /// Version of the command that wrote it.
    pub haltline: String,
    /// Version of the streams' layout.
    pub layout: String,
    /// Whose installation it is.
    pub namespace: String,
    /// When it was begun: what was stored by then is in it.
    pub taken_at: Timestamp,
    /// When it was complete.
    pub finished_at: Timestamp,
    /// Version of the nats-server it was taken from.
    pub server: String,
    /// The control flag then.
    pub flag: Flag,
    /// Its streams, in the order in which they are restored.
    pub streams: Vec<Stream>,
}

/// A stream of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Its name; also its folder's.
    pub name: String,
    /// Messages in it.
    pub messages: u64,
    /// Sequence of its first message, or the one after its last.
    pub first_seq: u64,
    /// Sequence up to which it reaches.
    pub last_seq: u64,
    /// Size of the archive.
    pub bytes: u64,
    /// SHA-256 of the archive.
    pub sha256: String,
    /// SHA-256 of its configuration.
    pub config_sha256: String,
}

/// The streams of an installation that a backup has, in the order in which they are restored: the
/// flag first, so that nothing is let through to what follows; what makes coordinators act last.
/// Presence of workers is not among them: it is true for ten seconds.
pub fn streams(names: &Names) -> Vec<String> {
    let bucket = |b: String| Names::bucket_stream(&b);
    vec![
        bucket(names.control_bucket()),
        bucket(names.definitions_bucket()),
        bucket(names.types_bucket()),
        bucket(names.tokens_bucket()),
        bucket(names.risk_bucket()),
        names.audit_stream(),
        names.access_stream(),
        Names::object_stream(&names.payloads_bucket()),
        names.events_stream(),
        names.tasks_stream(),
        bucket(names.checkpoints_bucket()),
        bucket(names.executions_bucket()),
    ]
}

/// Whether a backup has the streams of an installation. One that was written before some of them were there lacks
/// these: they are made empty.
fn are_of_an_installation(has: &[&str], names: &Names) -> bool {
    let payloads = Names::object_stream(&names.payloads_bucket());
    let (tokens, access) = (Names::bucket_stream(&names.tokens_bucket()), names.access_stream());
    [&[][..], &[&payloads], &[&payloads, &tokens, &access]]
        .iter()
        .any(|lacks| streams(names).iter().filter(|name| !lacks.contains(name)).eq(has))
}

impl Manifest {
    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let (part, file) = (dir.join(format!("{FILE}.part")), dir.join(FILE));
        let mut out = fs::File::create(&part)?;
        out.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        out.sync_all()?;
        fs::rename(part, file)?;
        fs::File::open(dir)?.sync_all()?;
        Ok(())
    }

    /// Reads it and checks everything it says: a backup of this installation, whole, unchanged.
    ///
    /// # Errors
    /// `Invalid`, saying what is wrong with it.
    pub fn read(dir: &Path, names: &Names) -> Result<Self, ApiError> {
        let wrong = |message: String| ApiError::invalid("from", message);
        let path = dir.join(FILE);
        let text = fs::read(&path).map_err(|e| wrong(format!("{} is no complete backup: {}: {e}", dir.display(), path.display())))?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|e| wrong(format!("{} is malformed: {e}", path.display())))?;
        if manifest.format != FORMAT || manifest.layout != haltline_common::topology::LAYOUT {
            let (format, layout, by) = (manifest.format, &manifest.layout, &manifest.haltline);
            return Err(wrong(format!(
                "the backup has form {format} and layout {layout}, written by Haltline {by}; restore it with that version"
            )));
        }
        if manifest.namespace != names.namespace() {
            let message =
                format!("the backup is of the installation `{0}`, not `{1}`: use --namespace {0}", manifest.namespace, names.namespace());
            return Err(ApiError::new(Code::Conflict, message));
        }
        let has: Vec<&str> = manifest.streams.iter().map(|s| s.name.as_str()).collect();
        if !are_of_an_installation(&has, names) {
            return Err(wrong(format!("the backup has the streams {}, not those of an installation", has.join(", "))));
        }
        for s in &manifest.streams {
            let damaged = |why: String| wrong(format!("the backup is damaged: {}: {why}", s.name));
            let folder = dir.join(&s.name);
            let (bytes, sha256) = archive::digest(&folder.join(ARCHIVE)).map_err(|e| damaged(e.to_string()))?;
            if (bytes, &sha256) != (s.bytes, &s.sha256) {
                return Err(damaged(format!("{ARCHIVE} has {bytes} bytes and digest {sha256}; {} and {} were written", s.bytes, s.sha256)));
            }
            let (_, config) = archive::digest(&folder.join(CONFIG)).map_err(|e| damaged(e.to_string()))?;
            if config != s.config_sha256 {
                return Err(damaged(format!("{CONFIG} is not what was written")));
            }
        }
        Ok(manifest)
    }
}
