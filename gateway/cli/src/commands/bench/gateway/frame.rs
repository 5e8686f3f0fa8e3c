//! Events as they are published, and frames as clients look at them: without parsing JSON, since a
//! hundred thousand come a second.

use std::time::{SystemTime, UNIX_EPOCH};

use super::WORKFLOW;

/// Microseconds since 1970: the same clock in all processes of a machine.
#[allow(clippy::disallowed_methods, reason = "latencies between processes need a clock that both have, finer than milliseconds")]
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

/// An event of the shape that dashboards get most. `sent_us` comes last: read from there.
pub fn event(execution: &str, n: u64, pad: &str) -> String {
    let timestamp = haltline_common::clock::now();
    format!(
        r#"{{"type":"node_completed","id":"{execution}/price/result","execution_id":"{execution}","workflow_id":"{WORKFLOW}","bot_id":"bot_001","strategy_id":"arb_v1","timestamp":"{timestamp}","node_id":"price","duration_ms":1,"status":"success","outputs":{{"price":"50234.56","volume":"1234.56","n":{n},"pad":"{pad}"}},"sent_us":{}}}"#,
        now_us()
    )
}

/// What a client needs of an `ev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// The subscription's counter.
    pub count: u64,
    /// The cursor.
    pub cursor: &'a str,
    /// When the event was sent.
    pub sent_us: u64,
}

/// Reads an `ev` for the one subscription `b`; `None` for other frames.
pub fn read(text: &str) -> Option<Seen<'_>> {
    let rest = text.strip_prefix(r#"{"t":"ev","s":{"b":"#)?;
    let (count, rest) = rest.split_once('}')?;
    let rest = rest.strip_prefix(r#","c":""#)?;
    let (cursor, rest) = rest.split_once('"')?;
    let digits = rest.strip_suffix("}}")?.rsplit(':').next()?;
    Some(Seen { count: count.parse().ok()?, cursor, sent_us: digits.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_json_and_its_frame_is_read() {
        let e = event("exec_1", 7, "xx");
        let value: serde_json::Value = serde_json::from_str(&e).expect("JSON");
        let frame = format!(r#"{{"t":"ev","s":{{"b":41}},"c":"00000001.9.-","d":{e}}}"#);
        let seen = read(&frame).expect("an ev");
        assert_eq!((seen.count, seen.cursor, Some(seen.sent_us)), (41, "00000001.9.-", value["sent_us"].as_u64()));
        assert_eq!(read(r#"{"t":"mark","c":"x"}"#), None);
    }
}
