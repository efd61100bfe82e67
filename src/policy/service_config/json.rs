//! Reading JSON with errors that say where.

use serde_json::{Map, Value};

use super::ServiceConfigError;

/// The object that `text` is.
pub(super) fn object(text: &str) -> Result<Map<String, Value>, ServiceConfigError> {
    if text.trim().is_empty() {
        let reason = "the service config is empty; one without settings is {}";
        return Err(ServiceConfigError::new("", reason));
    }
    // The parser's own errors say what was expected, at which line and column.
    let value: Value = serde_json::from_str(text)
        .map_err(|error| ServiceConfigError::new("", error.to_string()))?;
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(ServiceConfigError::new("", "the service config must be an object"))
        }
    }
}

/// The value of `field`. One that is null counts as absent, as JSON for protobuf has it.
pub(super) fn present<'a>(fields: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    fields.get(field).filter(|value| !value.is_null())
}

/// The value of `field`, which is true or false if there is one.
pub(crate) fn optional_bool(
    fields: &Map<String, Value>,
    field: &str,
) -> Result<Option<bool>, ServiceConfigError> {
    let Some(value) = present(fields, field) else {
        return Ok(None);
    };
    match value.as_bool() {
        Some(value) => Ok(Some(value)),
        None => Err(ServiceConfigError::new(field, "must be true or false")),
    }
}
