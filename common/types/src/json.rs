//! JSON as it is written: one line, and how long it would be.

use std::io;

use serde::Serialize;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_would_be_written() {
        let value = serde_json::json!({ "a": [1, "é\n", null], "b": { "c": 1.5 } });
        assert_eq!(size(&value), value.to_string().len());
    }
}
