//! Cursors: places in the log that any gateway understands, after any restart.
//!
//! `<epoch>.<seq>.<tag>`: the epoch is made from the stream's name and the time it was created, the tag
//! from the message at `seq`. So a stream that was recreated or restored, and a sequence that was used
//! again, are noticed without anything being remembered. Clients keep cursors as they are.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Which stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// Of the stream `name`, created at `created` as the server writes it.
    pub fn of(name: &str, created: &str) -> Self {
        let digest = Sha256::new().chain_update(name).chain_update([0]).chain_update(created).finalize();
        Self(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]))
    }
}

/// Digest of a message: 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(u32);

impl Tag {
    /// Of the message with this body.
    pub fn of(payload: &[u8]) -> Self {
        let digest = Sha256::digest(payload);
        Self(u32::from_be_bytes([0, digest[0], digest[1], digest[2]]))
    }
}

/// A place in the log: everything up to `seq` is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Which stream.
    pub epoch: Epoch,
    /// The sequence.
    pub seq: u64,
    /// Of the message at `seq`; `None` where none is known, written `-`.
    pub tag: Option<Tag>,
}

impl Cursor {
    /// A place without a message to check.
    pub const fn bare(epoch: Epoch, seq: u64) -> Self {
        Self { epoch, seq, tag: None }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}.", self.epoch.0, self.seq)?;
        match self.tag {
            Some(Tag(tag)) => write!(f, "{tag:06x}"),
            None => f.write_str("-"),
        }
    }
}

/// A text that is no cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no cursor")]
pub struct BadCursor(String);

impl FromStr for Cursor {
    type Err = BadCursor;
    fn from_str(text: &str) -> Result<Self, BadCursor> {
        read(text).ok_or_else(|| BadCursor(text.chars().take(64).collect()))
    }
}

fn read(text: &str) -> Option<Cursor> {
    // Exactly as it is written: one place has one cursor.
    let hex = |t: &str, n: usize| {
        let plain = t.len() == n && t.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        plain.then(|| u32::from_str_radix(t, 16).ok()).flatten()
    };
    let mut parts = text.split('.');
    let epoch = hex(parts.next()?, 8)?;
    let seq = parts.next()?;
    let plain = seq.bytes().all(|b| b.is_ascii_digit()) && (seq == "0" || !seq.starts_with('0'));
    let seq = if plain { seq.parse().ok().filter(|s| *s < u64::MAX)? } else { return None };
    let tag = match parts.next()? {
        "-" => None,
        t => Some(Tag(hex(t, 6)?)),
    };
    parts.next().is_none().then_some(Cursor { epoch: Epoch(epoch), seq, tag })
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Cursor {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cursor".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9a-f]{8}\\.(0|[1-9][0-9]{0,19})\\.([0-9a-f]{6}|-)$",
            "description": "A place in the log. Opaque to clients: keep it as it is."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        let c = Cursor { epoch: Epoch::of("s", "2026-01-01T00:00:00Z"), seq: 1041, tag: Some(Tag::of(b"x")) };
        assert_eq!(c.to_string().parse(), Ok(c));
        let bare = Cursor::bare(Epoch(7), 0);
        assert_eq!(bare.to_string(), "00000007.0.-");
        assert_eq!("00000007.0.-".parse(), Ok(bare));
        for bad in [
            "",
            "12",
            "7.0.-",
            "0000000G.0.-",
            "0000000A.0.-",
            "00000007.-1.-",
            "00000007.01.-",
            "00000007.+1.-",
            "00000007.0.",
            "00000007.0.-.",
            "00000007.18446744073709551616.-",
            "00000007.18446744073709551615.-",
            "00000007.0.1234567",
        ] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }

    #[test]
    fn streams_and_messages_are_told_apart() {
        assert_ne!(Epoch::of("a", "1"), Epoch::of("a", "2"));
        assert_ne!(Epoch::of("ab", "c"), Epoch::of("a", "bc"));
        assert_ne!(Tag::of(b"1"), Tag::of(b"2"));
    }
}
