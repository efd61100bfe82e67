//! What a service config says of methods (A6).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::super::retry::Throttle;
use super::{ServiceConfigError, json};
use crate::types::{
    AttemptPolicy, Code, CodeSet, HedgingPolicy, MethodConfig, MethodPath, RetryPolicy,
};

/// The configs of all methods, to be found without a search.
#[derive(Clone, Debug, Default)]
pub(crate) struct MethodConfigs {
    /// By `/service/method`, and by `/service/` for all others of a service.
    by_path: HashMap<Box<str>, Arc<MethodConfig>>,
    /// For all others.
    default: Option<Arc<MethodConfig>>,
}

impl MethodConfigs {
    /// What applies to `method`: what is said of it, of its service, or of all methods.
    pub(crate) fn get(&self, method: &MethodPath) -> Option<&Arc<MethodConfig>> {
        if self.by_path.is_empty() {
            return self.default.as_ref();
        }
        let path = method.as_str();
        let service = path.rfind('/').map_or("", |slash| &path[..=slash]);
        let of_path = self.by_path.get(path).or_else(|| self.by_path.get(service));
        of_path.or(self.default.as_ref())
    }

    pub(super) fn parse(config: &Map<String, Value>) -> Result<Self, ServiceConfigError> {
        let mut all = Self::default();
        let Some(list) = json::present(config, FIELD) else { return Ok(all) };
        for (index, entry) in json::list(list, FIELD)?.iter().enumerate() {
            let path = format!("{FIELD}[{index}]");
            let fields = json::fields(entry).map_err(|error| error.within(&path))?;
            all.add(fields).map_err(|error| error.within(&path))?;
        }
        Ok(all)
    }

    fn add(&mut self, fields: &Map<String, Value>) -> Result<(), ServiceConfigError> {
        // Read even if no name makes it apply: it must be right.
        let config = Arc::new(MethodConfig::parse(fields)?);
        let Some(names) = json::present(fields, "name") else { return Ok(()) };
        for (index, name) in json::list(names, "name")?.iter().enumerate() {
            let path = format!("name[{index}]");
            let name = json::fields(name).map_err(|error| error.within(&path))?;
            let part = |field| json::optional_text(name, field).map_err(|it| it.within(&path));
            let (service, method) = (part("service")?, part("method")?);
            let is_new = match (service, method) {
                ("", "") => self.default.replace(config.clone()).is_none(),
                ("", _) => {
                    let reason = "there is a method without a service";
                    return Err(ServiceConfigError::new(path, reason));
                }
                (service, method) => {
                    let key = format!("/{service}/{method}").into_boxed_str();
                    match self.by_path.entry(key) {
                        Entry::Vacant(place) => {
                            place.insert(config.clone());
                            true
                        }
                        Entry::Occupied(_) => false,
                    }
                }
            };
            if !is_new {
                let reason = "another methodConfig is for the same name";
                return Err(ServiceConfigError::new(path, reason));
            }
        }
        Ok(())
    }
}

impl MethodConfig {
    /// Reads one entry of `methodConfig`, such as `{"timeout": "1s"}`: `timeout`, `waitForReady`,
    /// `maxRequestMessageBytes`, `maxResponseMessageBytes`, `retryPolicy`, `hedgingPolicy`. Fields
    /// that are not known are ignored, and so is `name`.
    ///
    /// Fails as the service config would, with paths that begin at the entry.
    ///
    /// ```
    /// use switchboard::MethodConfig;
    ///
    /// let error = MethodConfig::from_json(r#"{"retryPolicy": {"maxAttempts": 3}}"#).unwrap_err();
    /// assert_eq!(error.to_string(), "retryPolicy.backoffMultiplier: is missing");
    /// ```
    pub fn from_json(text: &str) -> Result<Self, ServiceConfigError> {
        Self::parse(&json::object(text, "method config")?)
    }

    fn parse(fields: &Map<String, Value>) -> Result<Self, ServiceConfigError> {
        let retry = json::optional_object(fields, "retryPolicy")?;
        let hedging = json::optional_object(fields, "hedgingPolicy")?;
        let attempts = match (retry, hedging) {
            (None, None) => AttemptPolicy::Once,
            (Some(retry), None) => AttemptPolicy::Retry(
                retry_policy(retry).map_err(|error| error.within("retryPolicy"))?,
            ),
            (None, Some(hedging)) => AttemptPolicy::Hedging(
                hedging_policy(hedging).map_err(|error| error.within("hedgingPolicy"))?,
            ),
            (Some(_), Some(_)) => {
                let reason = "there is a retryPolicy already, and a method has one or the other";
                return Err(ServiceConfigError::new("hedgingPolicy", reason));
            }
        };
        Ok(Self {
            // One that is negative has no meaning, and none is taken from it.
            timeout: json::optional_duration(fields, "timeout")?.and_then(Result::ok),
            wait_for_ready: json::optional_bool(fields, "waitForReady")?,
            request_bytes_max: json::optional_size(fields, "maxRequestMessageBytes")?,
            response_bytes_max: json::optional_size(fields, "maxResponseMessageBytes")?,
            attempts,
        })
    }
}

fn retry_policy(fields: &Map<String, Value>) -> Result<RetryPolicy, ServiceConfigError> {
    let multiplier = json::required(fields, "backoffMultiplier")?;
    let multiplier = multiplier
        .as_f64()
        .filter(|multiplier| *multiplier > 0.0)
        .ok_or_else(|| ServiceConfigError::new("backoffMultiplier", "must be more than 0"))?;
    let codes = json::required(fields, "retryableStatusCodes")?;
    let codes = code_set(codes, "retryableStatusCodes")?;
    if codes.is_empty() {
        let reason = "must have at least one code";
        return Err(ServiceConfigError::new("retryableStatusCodes", reason));
    }
    Ok(RetryPolicy {
        max_attempts: max_attempts(fields)?,
        initial_backoff: positive_duration(fields, "initialBackoff")?,
        max_backoff: positive_duration(fields, "maxBackoff")?,
        multiplier,
        codes,
    })
}

fn hedging_policy(fields: &Map<String, Value>) -> Result<HedgingPolicy, ServiceConfigError> {
    let non_fatal = match json::present(fields, "nonFatalStatusCodes") {
        Some(codes) => code_set(codes, "nonFatalStatusCodes")?,
        None => CodeSet::default(),
    };
    let delay = match json::optional_duration(fields, "hedgingDelay")? {
        None => Duration::ZERO,
        Some(Ok(delay)) => delay,
        Some(Err(_)) => {
            return Err(ServiceConfigError::new("hedgingDelay", "must not be negative"));
        }
    };
    Ok(HedgingPolicy { max_attempts: max_attempts(fields)?, delay, non_fatal })
}

fn max_attempts(fields: &Map<String, Value>) -> Result<u32, ServiceConfigError> {
    let attempts = json::required(fields, "maxAttempts")?.as_u64().filter(|attempts| *attempts > 1);
    let attempts = attempts
        .ok_or_else(|| ServiceConfigError::new("maxAttempts", "must be a number of at least 2"))?;
    Ok(u32::try_from(attempts).unwrap_or(u32::MAX))
}

fn positive_duration(
    fields: &Map<String, Value>,
    field: &str,
) -> Result<Duration, ServiceConfigError> {
    json::required(fields, field)?;
    match json::optional_duration(fields, field)? {
        Some(Ok(duration)) if !duration.is_zero() => Ok(duration),
        _ => Err(ServiceConfigError::new(field, "must be more than 0")),
    }
}

fn code_set(list: &Value, field: &str) -> Result<CodeSet, ServiceConfigError> {
    let mut set = CodeSet::default();
    for (index, value) in json::list(list, field)?.iter().enumerate() {
        let code = match value {
            Value::String(name) => Code::from_name(&name.to_ascii_uppercase()),
            Value::Number(number) => number
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())
                .map(Code::from_number)
                .filter(|code| code.name().is_some()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let code = code.ok_or_else(|| {
            let reason = format!("{value} is no status code: expected UNAVAILABLE or 14");
            ServiceConfigError::new(format!("{field}[{index}]"), reason)
        })?;
        set.insert(code);
    }
    Ok(set)
}

/// How attempts beyond the first are kept from making an overload worse (A6).
pub(super) fn throttle(
    config: &Map<String, Value>,
) -> Result<Option<Arc<Throttle>>, ServiceConfigError> {
    let Some(fields) = json::optional_object(config, THROTTLING)? else { return Ok(None) };
    let within = |error: ServiceConfigError| error.within(THROTTLING);
    let max = json::required(fields, "maxTokens").map_err(within)?;
    let max = max.as_u64().filter(|max| (1..=1_000).contains(max)).ok_or_else(|| {
        ServiceConfigError::new("maxTokens", "must be a number from 1 to 1000").within(THROTTLING)
    })?;
    let ratio = json::required(fields, "tokenRatio").map_err(within)?;
    let ratio = ratio.as_f64().filter(|ratio| *ratio > 0.0).ok_or_else(|| {
        ServiceConfigError::new("tokenRatio", "must be more than 0").within(THROTTLING)
    })?;
    Ok(Some(Arc::new(Throttle::new(max as u32, ratio))))
}

const FIELD: &str = "methodConfig";
const THROTTLING: &str = "retryThrottling";
