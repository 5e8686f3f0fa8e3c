//! What people type: files, JSON inputs, who they are.

use std::{io::Read, path::Path};

use haltline_common::{
    definitions,
    types::{
        definition::Definition,
        error::{ApiError, Code},
    },
};
use serde_json::Value;

use crate::environment;

/// A file's text; `-` is standard input.
///
/// # Errors
/// `Invalid` when it cannot be read.
pub fn file(path: &Path) -> Result<String, ApiError> {
    let cannot = |e: std::io::Error| ApiError::new(Code::Invalid, format!("cannot read {}: {e}", path.display()));
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(cannot)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(cannot)
}

/// A definition from a JSON or YAML file.
///
/// # Errors
/// `Invalid` or `TooLarge`, naming the file.
pub fn definition(path: &Path) -> Result<Definition, ApiError> {
    definitions::parse(&file(path)?).map_err(|e| ApiError { message: format!("{}: {}", path.display(), e.message), ..e })
}

/// An execution's input: JSON, or `@file` with JSON or YAML; null if absent.
///
/// # Errors
/// `Invalid` or `TooLarge`.
pub fn input(text: Option<&str>) -> Result<Value, ApiError> {
    let value = match text {
        None => return Ok(Value::Null),
        Some(text) => match text.strip_prefix('@') {
            Some(path) => definitions::parse_value(&file(Path::new(path))?),
            None => serde_json::from_str(text).map_err(|e| ApiError::invalid("input", format!("malformed JSON: {e}"))),
        },
    };
    value.map_err(|e| ApiError { message: e.message.replacen("document:", "input:", 1), field: Some("input".into()), ..e })
}

/// A JSON value of a flag: JSON, or `@file` with JSON or YAML.
///
/// # Errors
/// `Invalid` or `TooLarge`, naming the flag.
pub fn json(flag: &str, text: &str) -> Result<Value, ApiError> {
    input(Some(text)).map_err(|e| ApiError { message: e.message.replacen("input:", &format!("{flag}:"), 1), field: Some(flag.into()), ..e })
}

/// Who acts: what was given, else `$USER`, else `cli`.
pub fn by(given: Option<String>) -> String {
    given.or_else(environment::user).unwrap_or_else(|| "cli".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn inputs_are_json_or_files() {
        assert_eq!(input(None), Ok(Value::Null));
        assert_eq!(input(Some(r#"{"a":1}"#)), Ok(json!({ "a": 1 })));
        assert_eq!(input(Some("{")).err().and_then(|e| e.field).as_deref(), Some("input"));
        assert!(input(Some("@/no/such/file")).is_err_and(|e| e.message.contains("/no/such/file")));
    }
}
