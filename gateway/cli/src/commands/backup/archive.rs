//! A stream as one file, in the form that nats-server 2.15 restores streams from: a state, then every
//! message with its sequence, time and headers, then an end mark, compressed. The server's own
//! snapshots look the same, but under load lack keys of a bucket whose value was replaced while the
//! snapshot was taken; so the messages come from a tail of ours.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

use async_nats::HeaderMap;
use haltline_common::types::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use snap::write::FrameEncoder;

/// First bytes of an archive.
const MAGIC: &[u8] = b"NATSARC1";
/// Room kept at the beginning for the state, which is known last: it has some 300 bytes.
const HEAD_BYTES: usize = 4096;
/// A chunk that readers of the compressed form skip.
const PADDING: u8 = 0xfe;
/// Its type and length.
const PADDING_HEAD: usize = 4;

/// An archive being written.
pub struct Archive {
    out: FrameEncoder<BufWriter<File>>,
    entry: Vec<u8>,
    seen: Seen,
}

/// What has been written of a stream.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Messages.
    messages: u64,
    /// Bytes of subjects, headers and bodies.
    bytes: u64,
    /// Sequence and time of the first message; 0 if there is none.
    first: (u64, i64),
    /// The same of the last one.
    last: (u64, i64),
}

impl Archive {
    /// A new archive at `path`, where no file is.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create_new(path)?;
        file.write_all(&[0; HEAD_BYTES])?;
        Ok(Self { out: FrameEncoder::new(BufWriter::new(file)), entry: Vec::new(), seen: Seen::default() })
    }

    /// Adds a message; sequences rise.
    pub fn add(&mut self, seq: u64, stored_at: Timestamp, subject: &str, headers: Option<&HeaderMap>, payload: &[u8]) -> io::Result<()> {
        let headers = headers.map(header_bytes).unwrap_or_default();
        let at = stored_at.0;
        self.entry.clear();
        head(&mut self.entry, subject, at.saturating_mul(1_000_000), seq, headers.len(), payload.len());
        self.out.write_all(&self.entry)?;
        self.out.write_all(&headers)?;
        self.out.write_all(payload)?;
        let seen = &mut self.seen;
        seen.messages += 1;
        seen.bytes += (subject.len() + headers.len() + payload.len()) as u64;
        if seen.first.0 == 0 {
            seen.first = (seq, at);
        }
        seen.last = (seq, at);
        Ok(())
    }

    /// Ends it: the stream reaches up to `last_seq`. The state as the archive tells it.
    pub fn finish(mut self, last_seq: u64) -> io::Result<Value> {
        self.entry.clear();
        head(&mut self.entry, "", 0, 0, 0, 0);
        self.out.write_all(&self.entry)?;
        let mut file = self.out.into_inner().map_err(|e| io::Error::other(e.to_string()))?;
        let state = state(&self.seen, last_seq);
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&beginning(&state)?)?;
        file.into_inner().map_err(|e| io::Error::other(e.to_string()))?.sync_all()?;
        Ok(state)
    }
}

/// The state, as nats-server writes one.
fn state(seen: &Seen, last_seq: u64) -> Value {
    // An empty stream begins after its end.
    let first_seq = if seen.messages == 0 { if last_seq == 0 { 0 } else { last_seq + 1 } } else { seen.first.0 };
    let time = |ms: i64| if ms == 0 { "0001-01-01T00:00:00Z".to_owned() } else { Timestamp(ms).to_string() };
    json!({
        "messages": seen.messages, "bytes": seen.bytes, "first_seq": first_seq, "first_ts": time(seen.first.1),
        "last_seq": last_seq, "last_ts": time(seen.last.1), "consumer_count": 0,
    })
}

/// The beginning of the file: the state, and padding up to the messages.
fn beginning(state: &Value) -> io::Result<Vec<u8>> {
    let state = state.to_string();
    let mut plain = MAGIC.to_vec();
    head(&mut plain, "state.json", 0, 0, 0, state.len());
    plain.extend_from_slice(state.as_bytes());
    let mut encoder = FrameEncoder::new(Vec::with_capacity(HEAD_BYTES));
    encoder.write_all(&plain)?;
    let mut out = encoder.into_inner().map_err(|e| io::Error::other(e.to_string()))?;
    let Some(rest) = HEAD_BYTES.checked_sub(out.len() + PADDING_HEAD) else {
        return Err(io::Error::other("the state of the stream is too long"));
    };
    out.push(PADDING);
    out.extend_from_slice(&(rest as u32).to_le_bytes()[..3]);
    out.resize(HEAD_BYTES, 0);
    Ok(out)
}

/// The head of an entry: lengths, time, sequence, name.
fn head(out: &mut Vec<u8>, name: &str, nanos: i64, seq: u64, headers: usize, payload: usize) {
    varint(out, name.len() as u64);
    varint(out, ((nanos << 1) ^ (nanos >> 63)) as u64);
    varint(out, seq);
    varint(out, headers as u64);
    varint(out, payload as u64);
    out.extend_from_slice(name.as_bytes());
}

fn varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Headers as they are on the wire.
fn header_bytes(headers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, values) in headers.iter() {
        for value in values {
            let name: &str = name.as_ref();
            out.extend_from_slice(format!("{name}: {}\r\n", value.as_str()).as_bytes());
        }
    }
    if !out.is_empty() {
        out.splice(0..0, b"NATS/1.0\r\n".iter().copied());
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Size and SHA-256 of a file.
pub fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = BufReader::new(File::open(path)?);
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 64 * 1024]);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
    Ok((bytes, hash.finalize().iter().map(|b| format!("{b:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_padded_and_reads_back() {
        let state = state(&Seen::default(), 7);
        assert_eq!((state["first_seq"].as_u64(), state["last_seq"].as_u64()), (Some(8), Some(7)));
        let mut bytes = beginning(&state).expect("fits");
        assert_eq!(bytes.len(), HEAD_BYTES);
        // What follows is read as if the padding were not there.
        let mut rest = FrameEncoder::new(Vec::new());
        rest.write_all(b"then").expect("memory");
        bytes.extend(rest.into_inner().expect("memory"));
        let mut plain = Vec::new();
        snap::read::FrameDecoder::new(&bytes[..]).read_to_end(&mut plain).expect("valid");
        assert!(plain.starts_with(MAGIC) && plain.ends_with(b"then"));
        assert!(String::from_utf8_lossy(&plain).contains("\"last_seq\":7"));
    }

    #[test]
    fn numbers_are_written_as_the_server_reads_them() {
        let mut out = Vec::new();
        head(&mut out, "a", -1, 300, 0, 1);
        assert_eq!(out, [1, 1, 0xac, 2, 0, 1, b'a']);
    }
}
