//! Reading a request's JSON field by field, so that an error can name the field.

use haltline_common::types::Timestamp;
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use crate::reply::Refused;

/// The fields of a request's body that were not taken yet.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body, which must be one JSON object.
    pub fn read(body: &[u8]) -> Result<Self, Refused> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Refused::invalid("", "the body must be a JSON object")),
            Err(e) => Err(Refused::invalid("", format!("the body is not JSON: {e}"))),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|v| !v.is_null())
    }

    fn require(&mut self, name: &str) -> Result<Value, Refused> {
        self.take(name).ok_or_else(|| Refused::invalid(name, "is missing"))
    }

    /// A text of 1 to `max` bytes.
    pub fn text(&mut self, name: &str, max: usize) -> Result<String, Refused> {
        match self.require(name)? {
            Value::String(text) if text.is_empty() => Err(Refused::invalid(name, "must not be empty")),
            Value::String(text) if text.len() > max => Err(Refused::invalid(name, format!("has {} bytes, more than {max}", text.len()))),
            Value::String(text) => Ok(text),
            _ => Err(Refused::invalid(name, "must be a text")),
        }
    }

    /// A whole number from 0.
    pub fn whole(&mut self, name: &str) -> Result<u64, Refused> {
        self.require(name)?.as_u64().ok_or_else(|| Refused::invalid(name, "must be a whole number from 0"))
    }

    /// The same, or `default` if it is not there.
    pub fn whole_or(&mut self, name: &str, default: u64) -> Result<u64, Refused> {
        if self.0.contains_key(name) { self.whole(name) } else { Ok(default) }
    }

    /// A time, if it is there.
    pub fn time_opt(&mut self, name: &str) -> Result<Option<Timestamp>, Refused> {
        if !self.0.contains_key(name) {
            return Ok(None);
        }
        let text = self.text(name, 64)?;
        Timestamp::parse(&text).map(Some).map_err(|e| Refused::invalid(name, e))
    }

    /// A decimal above zero, from a text or a JSON number; never rounded.
    pub fn positive(&mut self, name: &str) -> Result<Decimal, Refused> {
        let text = match self.require(name)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            _ => return Err(Refused::invalid(name, "must be a decimal number as text")),
        };
        let value = Decimal::from_str_exact(text.trim()).map_err(|e| Refused::invalid(name, format!("is not a decimal number: {e}")))?;
        if value > Decimal::ZERO { Ok(value) } else { Err(Refused::invalid(name, "must be above zero")) }
    }

    /// The same, if it is there.
    pub fn positive_opt(&mut self, name: &str) -> Result<Option<Decimal>, Refused> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.positive(name).map(Some),
        }
    }

    /// Refuses what nobody took: a mistyped `limit_price` must not become an order without limit.
    pub fn done(mut self) -> Result<(), Refused> {
        self.0.retain(|_, value| !value.is_null());
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Refused::invalid(name, "is not a field of this request")),
        }
    }
}
