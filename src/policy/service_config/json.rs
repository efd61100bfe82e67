//! Reading JSON with errors that say where.

use std::time::Duration;

use serde_json::{Map, Value};

use super::ServiceConfigError;

/// The object that `text` is, which is a config of some kind.
pub(super) fn object(text: &str, kind: &str) -> Result<Map<String, Value>, ServiceConfigError> {
    if text.trim().is_empty() {
        let reason = format!("the {kind} is empty; one without settings is {{}}");
        return Err(ServiceConfigError::new("", reason));
    }
    // The parser's own errors say what was expected, at which line and column.
    let value: Value = serde_json::from_str(text)
        .map_err(|error| ServiceConfigError::new("", error.to_string()))?;
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(ServiceConfigError::new("", format!("the {kind} must be an object")))
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

/// The value of `field`, which must be there.
pub(super) fn required<'a>(
    fields: &'a Map<String, Value>,
    field: &str,
) -> Result<&'a Value, ServiceConfigError> {
    present(fields, field).ok_or_else(|| ServiceConfigError::new(field, "is missing"))
}

/// The list that the value of `field` is.
pub(super) fn list<'a>(
    value: &'a Value,
    field: &str,
) -> Result<&'a Vec<Value>, ServiceConfigError> {
    value.as_array().ok_or_else(|| ServiceConfigError::new(field, "must be a list"))
}

/// The fields of the object that `value` is.
pub(super) fn fields(value: &Value) -> Result<&Map<String, Value>, ServiceConfigError> {
    value.as_object().ok_or_else(|| ServiceConfigError::new("", "must be an object"))
}

/// The value of `field`, which is an object if there is one.
pub(super) fn optional_object<'a>(
    fields: &'a Map<String, Value>,
    field: &str,
) -> Result<Option<&'a Map<String, Value>>, ServiceConfigError> {
    let object = present(fields, field).map(self::fields);
    object.transpose().map_err(|error| error.within(field))
}

/// The value of `field`, which is a text if there is one; else an empty one.
pub(super) fn optional_text<'a>(
    fields: &'a Map<String, Value>,
    field: &str,
) -> Result<&'a str, ServiceConfigError> {
    match present(fields, field) {
        None => Ok(""),
        Some(value) => {
            value.as_str().ok_or_else(|| ServiceConfigError::new(field, "must be a text"))
        }
    }
}

/// The value of `field`, which is a number of bytes if there is one.
pub(super) fn optional_size(
    fields: &Map<String, Value>,
    field: &str,
) -> Result<Option<usize>, ServiceConfigError> {
    let Some(value) = present(fields, field) else { return Ok(None) };
    let size = value
        .as_u64()
        .ok_or_else(|| ServiceConfigError::new(field, "must be a number of bytes"))?;
    Ok(Some(usize::try_from(size).unwrap_or(usize::MAX)))
}

/// A duration below zero.
pub(super) struct Negative;

/// The value of `field`, which is a duration if there is one: seconds with up to nine digits after
/// the point and an `s` behind, as JSON for protobuf has it.
pub(super) fn optional_duration(
    fields: &Map<String, Value>,
    field: &str,
) -> Result<Option<Result<Duration, Negative>>, ServiceConfigError> {
    let Some(value) = present(fields, field) else { return Ok(None) };
    let duration = value.as_str().and_then(duration);
    let reason = "must be a duration such as \"1.5s\"";
    duration.map(Some).ok_or_else(|| ServiceConfigError::new(field, reason))
}

fn duration(text: &str) -> Option<Result<Duration, Negative>> {
    let number = text.strip_suffix('s')?;
    let (number, is_negative) = match number.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (number, false),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    // One of them is enough, with the point between.
    let parts = [whole, fraction].map(|part| if part.is_empty() { "0" } else { part });
    let has_digits = number.bytes().any(|byte| byte.is_ascii_digit());
    if !has_digits || !parts.iter().all(|part| is_number(part)) || fraction.len() > 9 {
        return None;
    }
    let seconds = parts[0].parse().ok().filter(|seconds| *seconds <= SECONDS_MAX)?;
    let nanos = format!("{:0<9}", parts[1]).parse().ok()?;
    let duration = Duration::new(seconds, nanos);
    Some(if is_negative && !duration.is_zero() { Err(Negative) } else { Ok(duration) })
}

/// Ten thousand years, as far as protobuf counts.
const SECONDS_MAX: u64 = 315_576_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_seconds_with_up_to_nine_digits_after_the_point() {
        for (text, expected) in [
            ("1s", Duration::from_secs(1)),
            ("1.5s", Duration::from_millis(1_500)),
            ("0.000000001s", Duration::from_nanos(1)),
            (".5s", Duration::from_millis(500)),
            ("2.s", Duration::from_secs(2)),
            ("-0s", Duration::ZERO),
            ("315576000000s", Duration::from_secs(SECONDS_MAX)),
        ] {
            assert_eq!(duration(text).and_then(Result::ok), Some(expected), "{text}");
        }
        assert!(matches!(duration("-1.5s"), Some(Err(Negative))));
        for text in
            ["", "s", "1", ".s", "-s", "1m", "+1s", "1 s", "1.0000000001s", "315576000001s", "1e3s"]
        {
            assert!(duration(text).is_none(), "{text}");
        }
    }
}
