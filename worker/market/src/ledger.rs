//! Files of one line of JSON for each thing that arrived, written before it is answered: the ledger of orders, and
//! beside it the fences.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use anyhow::{Context, anyhow, bail};
use serde::{Serialize, de::DeserializeOwned};

/// An open ledger. It always ends with a whole line.
pub struct Ledger {
    file: Arc<File>,
    len: u64,
    broken: bool,
}

impl Ledger {
    /// Opens or creates the file and hands every line that is there to `each`.
    ///
    /// A last line without its end was never answered (the process died while writing it), so it is
    /// taken off; whoever sent that order will repeat it.
    ///
    /// # Errors
    /// When the file cannot be used, is another market's, or holds a line that is none of these.
    pub fn open<T: DeserializeOwned>(path: &Path, mut each: impl FnMut(T) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let name = path.display();
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).with_context(|| format!("directory of the ledger {name}"))?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(|| format!("ledger {name}"))?;
        match file.try_lock() {
            Ok(()) => {}
            // Two markets that do not see each other's orders could both accept the same one.
            Err(TryLockError::WouldBlock) => bail!("ledger {name}: another market uses it"),
            Err(TryLockError::Error(e)) => return Err(anyhow!(e).context(format!("locking the ledger {name}"))),
        }
        let mut len = 0;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        for n in 1.. {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).with_context(|| format!("ledger {name}"))?;
            if read == 0 {
                break;
            }
            if line.last() != Some(&b'\n') {
                tracing::warn!(ledger = %name, line = n, bytes = read, "the last line was not written to its end; it is taken off");
                file.set_len(len).with_context(|| format!("ledger {name}"))?;
                break;
            }
            let arrival = serde_json::from_slice(&line).with_context(|| format!("ledger {name}, line {n}"))?;
            each(arrival).with_context(|| format!("ledger {name}, line {n}"))?;
            len += read as u64;
        }
        Ok(Self { file: Arc::new(file), len, broken: false })
    }

    /// Appends one line. When this returns, the line outlives the process (not a power cut: the
    /// paper market need not pay a disk's sync for every order).
    ///
    /// # Errors
    /// When it could not be written; then nothing of it remains.
    pub fn append(&mut self, arrival: &impl Serialize) -> std::io::Result<()> {
        if self.broken {
            return Err(std::io::Error::other("the ledger holds half a line after a failed write; restart the market"));
        }
        let mut line = serde_json::to_vec(arrival)?;
        line.push(b'\n');
        let mut file = &*self.file;
        if let Err(error) = file.write_all(&line).and_then(|()| file.flush()) {
            // Half a line would swallow the next one.
            self.broken = self.file.set_len(self.len).is_err();
            return Err(error);
        }
        self.len += line.len() as u64;
        Ok(())
    }

    /// What is there now, for reading beside the writer.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { file: self.file.clone(), len: self.len, at: 0 }
    }
}

/// A ledger up to the length it had.
pub struct Snapshot {
    file: Arc<File>,
    len: u64,
    at: u64,
}

impl Snapshot {
    /// The next piece as part of a JSON array's inside, lines separated by commas; `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let left = self.len - self.at;
        if left == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(64 * 1024)];
        self.file.read_exact_at(&mut piece, self.at)?;
        self.at += piece.len() as u64;
        // JSON texts escape line ends, so every one of these bytes ends an arrival.
        for byte in piece.iter_mut().filter(|b| **b == b'\n') {
            *byte = b',';
        }
        if self.at == self.len {
            piece.pop();
        }
        Ok(Some(piece))
    }
}
