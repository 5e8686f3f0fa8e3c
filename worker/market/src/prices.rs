//! Prices as they are replayed: daily bars by symbol, in order of their dates.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// Real prices of AAPL and IBM from 2008-09-02 to 2008-12-31; `data/README.md` names the source.
const EMBEDDED: &str = include_str!("../data/prices-2008-autumn.csv");
/// Bars of one file: a century of days for fifty symbols, about 200 MB of memory.
const BARS_MAX: usize = 1_500_000;

/// One day of one symbol. Prices are decimal texts on the wire, in the file's currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// The symbol.
    pub symbol: String,
    /// The day, `YYYY-MM-DD`.
    pub date: String,
    /// First price.
    pub open: Decimal,
    /// Highest price.
    pub high: Decimal,
    /// Lowest price.
    pub low: Decimal,
    /// Last price: orders fill at it.
    pub close: Decimal,
    /// Shares traded.
    pub volume: u64,
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "Ticker")]
    symbol: String,
    #[serde(rename = "Date")]
    date: String,
    #[serde(rename = "Open")]
    open: Decimal,
    #[serde(rename = "High")]
    high: Decimal,
    #[serde(rename = "Low")]
    low: Decimal,
    #[serde(rename = "Close")]
    close: Decimal,
    #[serde(rename = "Volume")]
    volume: u64,
}

/// All bars of a file.
pub struct Prices {
    by_symbol: BTreeMap<String, Vec<Bar>>,
    dates: Vec<String>,
}

impl Prices {
    /// Reads a file, or the embedded slice.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        match file {
            None => Self::read(EMBEDDED.as_bytes()).context("embedded prices"),
            Some(path) => {
                let file = std::fs::File::open(path).with_context(|| format!("prices {}", path.display()))?;
                Self::read(std::io::BufReader::new(file)).with_context(|| format!("prices {}", path.display()))
            }
        }
    }

    fn read(source: impl std::io::Read) -> anyhow::Result<Self> {
        let mut by_symbol: BTreeMap<String, Vec<Bar>> = BTreeMap::new();
        let mut dates = BTreeSet::new();
        for (n, row) in csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(source).deserialize::<Row>().enumerate() {
            ensure!(n < BARS_MAX, "more than {BARS_MAX} bars");
            let row = row?;
            // The header is line 1.
            let line = n + 2;
            ensure!(!row.symbol.is_empty(), "line {line}: no ticker");
            ensure!(is_date(&row.date), "line {line}: `{}` is not a date as YYYY-MM-DD", row.date);
            ensure!(row.low > Decimal::ZERO, "line {line}: prices must be above zero");
            ensure!(
                [row.open, row.close].iter().all(|p| (row.low..=row.high).contains(p)),
                "line {line}: open and close must lie between low and high"
            );
            dates.insert(row.date.clone());
            by_symbol.entry(row.symbol.clone()).or_default().push(Bar {
                symbol: row.symbol,
                date: row.date,
                open: row.open,
                high: row.high,
                low: row.low,
                close: row.close,
                volume: row.volume,
            });
        }
        for bars in by_symbol.values_mut() {
            bars.sort_by(|a, b| a.date.cmp(&b.date));
            if let Some([a, _]) = bars.windows(2).find(|w| w[0].date == w[1].date).and_then(|w| <&[Bar; 2]>::try_from(w).ok()) {
                bail!("two bars of {} on {}", a.symbol, a.date);
            }
        }
        ensure!(!dates.is_empty(), "there is no bar in it");
        Ok(Self { by_symbol, dates: dates.into_iter().collect() })
    }

    /// The symbols, sorted.
    pub fn symbols(&self) -> Vec<&str> {
        self.by_symbol.keys().map(String::as_str).collect()
    }

    /// All days on which any symbol has a bar, in order; at least one.
    pub fn dates(&self) -> &[String] {
        &self.dates
    }

    /// Whether the symbol is known.
    pub fn knows(&self, symbol: &str) -> bool {
        self.by_symbol.contains_key(symbol)
    }

    /// The symbol's bar of exactly that day.
    pub fn on(&self, symbol: &str, date: &str) -> Option<&Bar> {
        self.until(symbol, date).filter(|bar| bar.date == date)
    }

    /// The symbol's last bar up to that day: a symbol that did not trade keeps its last price.
    pub fn until(&self, symbol: &str, date: &str) -> Option<&Bar> {
        let bars = self.by_symbol.get(symbol)?;
        let after = bars.partition_point(|bar| bar.date.as_str() <= date);
        bars.get(after.checked_sub(1)?)
    }
}

/// Whether `text` looks like `YYYY-MM-DD`; such texts sort as their days do.
pub fn is_date(text: &str) -> bool {
    text.len() == 10 && text.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_slice_is_complete() {
        let prices = Prices::load(None).unwrap();
        assert_eq!(prices.symbols(), ["AAPL", "IBM"]);
        assert_eq!(prices.dates().len(), 85);
        assert_eq!((prices.dates()[0].as_str(), prices.dates()[84].as_str()), ("2008-09-02", "2008-12-31"));
        // The day the House refused the bailout: AAPL lost 18 % of its value.
        assert_eq!(prices.on("AAPL", "2008-09-29").unwrap().close.to_string(), "105.26");
        assert!(prices.on("AAPL", "2008-09-28").is_none(), "a Sunday");
        assert_eq!(prices.until("AAPL", "2008-09-28").unwrap().date, "2008-09-26");
        assert!(prices.until("AAPL", "2008-09-01").is_none());
    }

    #[test]
    fn bad_files_are_refused() {
        let read = |rows: &str| {
            Prices::read(format!("Ticker,Date,Open,High,Low,Close,Volume\n{rows}").as_bytes()).map(|_| ()).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(read("A,2008-01-02,1,2,1,2,5\n"), Ok(()));
        for (rows, part) in [
            ("", "no bar"),
            ("A,2008-01-02,1,2,1,2,5\nA,2008-01-02,1,2,1,2,5\n", "two bars"),
            ("A,02.01.2008,1,2,1,2,5\n", "not a date"),
            ("A,2008-01-02,1,2,0,2,5\n", "above zero"),
            ("A,2008-01-02,1,2,1,3,5\n", "between"),
            ("A,2008-01-02,x,2,1,2,5\n", "line: 2"),
        ] {
            let error = read(rows).unwrap_err();
            assert!(error.contains(part), "{rows}: {error}");
        }
    }
}
