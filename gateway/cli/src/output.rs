//! Standard output: lines, JSON, tables. A reader that closed the pipe, as `head` does, ends the
//! command quietly.

use std::{
    fmt::Display,
    io::{IsTerminal, Write, stdout},
};

use serde::Serialize;

/// Prints a line.
pub fn line(what: impl Display) {
    text(format_args!("{what}\n"));
}

/// Prints text that ends its own lines.
pub fn text(what: impl Display) {
    let mut out = stdout().lock();
    if write!(out, "{what}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints a value as one line of JSON.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => line(text),
        Err(e) => eprintln!("error: cannot write JSON: {e}"),
    }
}

/// Prints a value as JSON for people to read.
pub fn pretty(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(text),
        Err(e) => eprintln!("error: cannot write JSON: {e}"),
    }
}

/// Whether a person looks at standard output.
pub fn is_terminal() -> bool {
    stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// Prints rows as columns under a heading; a row has as many cells as the heading.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) {
    let mut widths = heading.map(|h| h.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let show = |cells: [&str; N]| {
        let mut out = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let pad = width - cell.chars().count();
            out.push_str(cell);
            out.push_str(&" ".repeat(pad + 2));
        }
        line(out.trim_end());
    };
    show(heading);
    for row in rows {
        show(std::array::from_fn(|i| row[i].as_str()));
    }
}

/// `n` of something, in words: `1 node`, `3 nodes`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A duration given in milliseconds, as people read it.
pub fn duration(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else if ms < 120_000.0 {
        format!("{:.1} s", ms / 1e3)
    } else {
        format!("{:.0} min", ms / 6e4)
    }
}

/// A number of bytes, as people read it.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(1, "node"), "1 node");
        assert_eq!(count(0, "node"), "0 nodes");
        assert_eq!(duration(3.21), "3.2 ms");
        assert_eq!(duration(61_000.0), "61.0 s");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(64 << 30), "64.0 GiB");
    }
}
