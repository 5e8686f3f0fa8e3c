//! JSON as it is written: one line, and how long it would be.

use std::{fmt, io, marker::PhantomData, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value};

struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of `value` as one line of JSON; more than any limit if it cannot be written.
pub fn size(value: &impl Serialize) -> usize {
    let mut counter = Counter(0);
    match serde_json::to_writer(&mut counter, value) {
        Ok(()) => counter.0,
        // Far above every limit, and sums of it do not overflow.
        Err(_) => usize::MAX / 65_536,
    }
}

/// Whether `map` has more than `limit` bytes as JSON. Of most a bound tells, for a fraction of what writing them takes.
pub fn exceeds(map: &Map<String, Value>, limit: usize) -> bool {
    bound(map) > limit && size(map) > limit
}

/// At least as many bytes as `map` has as JSON.
pub fn bound(map: &Map<String, Value>) -> usize {
    // A character may be written as six, a number takes 24 at most.
    fn text(text: &str) -> usize {
        text.len().saturating_mul(6) + 2
    }
    fn value(v: &Value) -> usize {
        match v {
            Value::Null | Value::Bool(_) => 5,
            Value::Number(_) => 24,
            Value::String(s) => text(s),
            Value::Array(all) => all.iter().fold(2, |sum, v| sum.saturating_add(value(v) + 1)),
            Value::Object(map) => bound(map),
        }
    }
    map.iter().fold(2, |sum, (key, v)| sum.saturating_add(text(key) + value(v) + 2))
}

/// Most messages are shorter: written without growing.
const LINE_BYTES: usize = 512;

/// `value` as one line of JSON.
///
/// # Errors
/// Of its `Serialize`.
pub fn line(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(LINE_BYTES);
    serde_json::to_writer(&mut out, value)?;
    Ok(out)
}

/// Adds `value` to `out` as JSON, or nothing if its `Serialize` fails.
pub fn append(out: &mut Vec<u8>, value: &impl Serialize) {
    let before = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(before);
    }
}

/// The lines of a message of the log. Events that were told in the same instant travel in one message, a line
/// each, in order; none of them contains a line break itself.
pub fn lines(body: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// Whether a number need not be written, for `skip_serializing_if`.
pub(crate) fn is_zero<T: Default + PartialEq>(n: &T) -> bool {
    *n == T::default()
}

/// The same of a map that is shared.
pub(crate) fn is_empty<T>(map: &Arc<T>) -> bool
where
    for<'m> &'m T: IntoIterator,
{
    (&**map).into_iter().next().is_none()
}

/// Reads a value from an object alone, for `deserialize_with`. Derived code takes a list as well, field by field, and
/// an empty one as all defaults: where a default means "everything", a slip must not say so.
///
/// # Errors
/// Of the value's `Deserialize`, and for what is no object.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    struct Read<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    d.deserialize_map(Read(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_would_be_written() {
        let value = serde_json::json!({ "a": [1, "é\n", null], "b": { "c": 1.5 } });
        assert_eq!(size(&value), value.to_string().len());
    }

    #[test]
    fn a_bound_is_never_less() {
        let quotes = "\u{1}\"".repeat(20);
        for text in [
            "{}",
            r#"{"a":[1,-1.7976931348623157e308,null,false],"b":{"":{}},"é":[[],[""]]}"#,
            &format!("{{\"k\":{}}}", serde_json::json!(quotes)),
        ] {
            let map: Map<String, Value> = serde_json::from_str(text).expect("an object");
            let exact = size(&map);
            assert!(bound(&map) >= exact, "{text}: {} < {exact}", bound(&map));
            assert!(exceeds(&map, exact - 1) && !exceeds(&map, exact), "{text}");
        }
    }

    #[test]
    fn lines_are_taken_apart() {
        let read = |body: &str| lines(body.as_bytes()).map(|l| String::from_utf8_lossy(l).into_owned()).collect::<Vec<_>>();
        assert_eq!(read("{}"), ["{}"]);
        assert_eq!(read("{\"a\":\"x\\ny\"}\n{}\n"), ["{\"a\":\"x\\ny\"}", "{}"]);
        assert!(read("").is_empty());
    }
}
