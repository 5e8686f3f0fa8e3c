//! Just enough of the NATS protocol to tell one frame from the next: a line, and after the lines of
//! messages as many bytes as the line's last word says.

/// A longer line is none; the server's own greeting has a few kilobytes.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// A longer message is none: the servers of a torture take 1 MiB.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// What stands at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'b> {
    /// A whole frame.
    Frame {
        /// How many bytes it has.
        len: usize,
        /// The subject, if it is a message.
        subject: Option<&'b str>,
    },
    /// Its end has not arrived.
    Part,
    /// Not this protocol.
    Strange,
}

/// Looks at the start of `bytes`.
pub fn first(bytes: &[u8]) -> Found<'_> {
    let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") else {
        return if bytes.len() > LINE_BYTES_MAX { Found::Strange } else { Found::Part };
    };
    let head = end + 2;
    let Ok(line) = std::str::from_utf8(&bytes[..end]) else { return Found::Strange };
    let mut words = line.split_ascii_whitespace();
    let verb = words.next().unwrap_or_default();
    if !["PUB", "HPUB", "MSG", "HMSG"].iter().any(|v| verb.eq_ignore_ascii_case(v)) {
        return Found::Frame { len: head, subject: None };
    }
    let subject = words.next();
    let size = words.next_back().and_then(|n| n.parse::<usize>().ok()).filter(|n| *n <= MESSAGE_BYTES_MAX);
    match size {
        None => Found::Strange,
        Some(size) if bytes.len() < head + size + 2 => Found::Part,
        Some(size) => Found::Frame { len: head + size + 2, subject },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_they_should() {
        let frame = |len, subject| Found::Frame { len, subject };
        assert_eq!(first(b"PING\r\nPONG\r\n"), frame(6, None));
        assert_eq!(first(b"PUB a.b 5\r\nhello\r\nPING\r\n"), frame(18, Some("a.b")));
        assert_eq!(first(b"HPUB a r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"), frame(32, Some("a")));
        assert_eq!(first(b"MSG a 1 r.s 2\r\n\r\n\r\nX"), frame(19, Some("a")));
        assert_eq!(first(b"PUB a 5\r\nhel"), Found::Part);
        assert_eq!(first(b"PUB a 5\r"), Found::Part);
        assert_eq!(first(b"PUB a five\r\n"), Found::Strange);
        assert_eq!(first(b"\xff\xfe\r\n"), Found::Strange);
        assert_eq!(first(b""), Found::Part);
    }
}
