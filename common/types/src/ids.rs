//! Ids: how they become subject tokens and keys, how execution ids are drawn, which shard they
//! belong to. All pure functions, so the same submission draws the same id anywhere.

use sha2::{Digest, Sha256};
use smol_str::SmolStr;

use crate::limits::ID_BYTES_MAX;

/// Escapes `id` into one subject token that is also a valid KV key part: letters, digits, `_` and
/// `-` stay, every other byte becomes `=` and two hex digits. Never empty, never collides.
pub fn token(id: &str) -> String {
    let stays = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !id.is_empty() && id.bytes().all(stays) {
        return id.to_owned(); // nearly always
    }
    let mut out = String::with_capacity(id.len());
    for b in id.bytes() {
        if stays(b) {
            out.push(b as char);
        } else {
            out.push('=');
            out.push(char::from(HEX[usize::from(b >> 4)]));
            out.push(char::from(HEX[usize::from(b & 15)]));
        }
    }
    if out.is_empty() { "=".to_owned() } else { out }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The id that [`token`] escaped, or `None` if `token` is not the outcome of an escape.
pub fn untoken(token: &str) -> Option<String> {
    if token == "=" {
        return Some(String::new());
    }
    let mut out = Vec::with_capacity(token.len());
    let mut bytes = token.bytes();
    while let Some(b) = bytes.next() {
        if b == b'=' {
            let pair = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}

/// Why `id` cannot be an id, if it cannot: empty, too long, or with control characters.
pub fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("must not be empty".into());
    }
    if id.len() > ID_BYTES_MAX {
        return Err(format!("has {} bytes, more than {ID_BYTES_MAX}", id.len()));
    }
    if id.chars().any(char::is_control) {
        return Err("contains a control character".into());
    }
    Ok(())
}

/// The shard of `text` among `shards`: FNV-1a, stable for ever, since subjects carry it.
pub fn shard_of(text: &str, shards: u32) -> u32 {
    fold(fnv(FNV_START, text.as_bytes()), shards)
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(begun: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(begun, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The low bits of FNV mix least: the high half is folded in.
fn fold(h: u64, shards: u32) -> u32 {
    ((h ^ (h >> 32)) % u64::from(shards.max(1))) as u32
}

/// Candidate ids of a submission: `exec_{workflow_id}_{8 hex}`, derived from its key, so repeating a
/// submission finds its execution without an index. A clash with another key's execution is told by
/// the key kept in the record, and the next candidate is drawn.
pub struct Draws {
    /// What all candidates begin with.
    prefix: String,
    /// The digest of what they share.
    hash: Sha256,
}

impl Draws {
    /// Those of `key` of a workflow.
    pub fn new(workflow_id: &str, key: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(workflow_id.as_bytes());
        hash.update([0]);
        hash.update(key.as_bytes());
        hash.update([0]);
        Self { prefix: ["exec_", workflow_id, "_"].concat(), hash }
    }

    /// The first candidate from the `draw`-th on, before `end`, that lies in `shard`, and its number.
    pub fn find(&self, draw: u32, end: u32, shard: u32, shards: u32) -> Option<(u32, SmolStr)> {
        let begun = fnv(FNV_START, self.prefix.as_bytes());
        (draw..end).find_map(|n| {
            let digits = self.digits(n);
            (fold(fnv(begun, &digits), shards) == shard).then(|| {
                let mut id = String::with_capacity(self.prefix.len() + digits.len());
                id.push_str(&self.prefix);
                id.extend(digits.map(char::from));
                (n, id.into())
            })
        })
    }

    fn digits(&self, draw: u32) -> [u8; 8] {
        let digest = self.hash.clone().chain_update(draw.to_be_bytes()).finalize();
        std::array::from_fn(|i| digit(digest[i / 2] >> (4 * (1 - i % 2))))
    }
}

/// The first 16 hex digits of the SHA-256 of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..8])
}

/// The SHA-256 of `bytes` in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex digits. Written by hand: formatting took a tenth of a coordinator's time.
fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    out.extend(bytes.iter().flat_map(|b| [b >> 4, *b]).map(|d| char::from(digit(d))));
    out
}

/// The lower-case hex digit of the low half of `b`.
fn digit(b: u8) -> u8 {
    b"0123456789abcdef"[usize::from(b & 15)]
}

/// W3C `traceparent` of an execution: the trace id is derived from the execution id.
pub fn traceparent(execution_id: &str) -> String {
    let hex = hex(&Sha256::digest(execution_id.as_bytes())[..24]);
    ["00-", &hex[..32], "-", &hex[32..], "-01"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_safe_and_reversible() {
        for id in ["arb_btc_001", "a.b*c>d e", "naïve", "=", "", "x=2E"] {
            let t = token(id);
            assert!(!t.contains(['.', '*', '>', ' ']) && !t.is_empty(), "{id} -> {t}");
            assert_eq!(untoken(&t).as_deref(), Some(id));
        }
        assert_eq!(token("arb_btc-001"), "arb_btc-001");
    }

    #[test]
    fn execution_ids_are_deterministic_and_spread() {
        let draw = |n| Draws::new("w", "k").find(n, n + 1, 0, 1);
        let a = draw(0);
        assert_eq!(a, draw(0));
        assert_ne!(a, draw(1));
        assert_eq!(a, Some((0, "exec_w_1cb9131c".into())));
        assert_eq!(traceparent("x"), "00-2d711642b726b04401627ca9fbac32f5-c8530fb1903cc4db-01");
        assert_eq!(digest(b"x"), "2d711642b726b044");
        for shard in 0..8 {
            let found = Draws::new("w", "k").find(3, 200, shard, 8);
            assert!(found.as_ref().is_some_and(|(n, id)| *n >= 3 && shard_of(id, 8) == shard), "{found:?}");
            assert_eq!(found.as_ref().map(|(_, id)| id.clone()), found.and_then(|(n, _)| draw(n)).map(|(_, id)| id));
        }
        assert_eq!(Draws::new("w", "k").find(5, 5, 0, 8), None);
    }
}
