//! A duration in whole milliseconds that people write as `500ms`, `5s`, `2m`, `1h` or `7d`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration in milliseconds. Text form: a number with a unit (`ms`, `s`, `m`, `h`, `d`).
/// A bare JSON number means seconds, as in the files of the replaced system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// Whole seconds.
    pub const fn secs(s: u64) -> Self {
        Self(s * 1000)
    }
    /// As a standard duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0;
        match ms {
            0 => f.write_str("0ms"),
            _ if ms.is_multiple_of(86_400_000) => write!(f, "{}d", ms / 86_400_000),
            _ if ms.is_multiple_of(3_600_000) => write!(f, "{}h", ms / 3_600_000),
            _ if ms.is_multiple_of(60_000) => write!(f, "{}m", ms / 60_000),
            _ if ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            _ => write!(f, "{ms}ms"),
        }
    }
}

impl FromStr for Millis {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("`{s}` is not a duration: write a number with a unit, as 500ms, 5s, 2m, 1h or 7d");
        let s = s.trim();
        let split = s.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, unit) = s.split_at(split);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let factor = match unit.trim() {
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 6e4,
            "h" => 3.6e6,
            "d" => 8.64e7,
            _ => return Err(bad()),
        };
        let ms = number * factor;
        if !(0.0..=3.2e12).contains(&ms) {
            return Err(format!("`{s}` is out of range"));
        }
        Ok(Self(ms.round() as u64))
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visit;
        impl de::Visitor<'_> for Visit {
            type Value = Millis;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"5s\", or a number of seconds")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Millis, E> {
                v.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Millis, E> {
                v.checked_mul(1000).filter(|ms| *ms <= 3_200_000_000_000).map(Millis).ok_or_else(|| E::custom("duration out of range"))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Millis, E> {
                u64::try_from(v).map_err(|_| E::custom("a duration cannot be negative")).and_then(|v| self.visit_u64(v))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Millis, E> {
                if (0.0..=3.2e9).contains(&v) { Ok(Millis((v * 1000.0).round() as u64)) } else { Err(E::custom("duration out of range")) }
            }
        }
        d.deserialize_any(Visit)
    }
}

impl schemars::JsonSchema for Millis {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A duration: a number with a unit (500ms, 5s, 2m, 1h, 7d), or a bare number of seconds.",
            "anyOf": [{ "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?\\s*(ms|s|m|h|d)$" }, { "type": "number", "minimum": 0 }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_numbers_round_trip() {
        for (text, ms) in [("500ms", 500), ("5s", 5000), ("1.5s", 1500), ("2m", 120_000), ("7d", 604_800_000), ("0ms", 0)] {
            assert_eq!(text.parse::<Millis>(), Ok(Millis(ms)), "{text}");
            assert_eq!(Millis(ms).to_string().parse::<Millis>(), Ok(Millis(ms)));
        }
        assert_eq!(serde_json::from_str::<Millis>("2").ok(), Some(Millis(2000)));
        for bad in ["", "5", "s", "-1s", "5 parsecs", "999999999999d"] {
            assert!(bad.parse::<Millis>().is_err(), "{bad}");
        }
    }
}
