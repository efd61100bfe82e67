//! What a service config says without any effect: allowed, as other clients may know it, and mostly
//! a mistake.

use serde_json::{Map, Value};

use super::{FIELD, HEALTH, LbRegistry, SCALING, ServiceConfigError, json};
use crate::policy::lb::pick_first;
use crate::types::MethodPath;

/// All that is in vain in a config that has been read and found good, in its order.
pub(super) fn of(config: &Map<String, Value>, registry: &LbRegistry) -> Vec<ServiceConfigError> {
    let mut doubts = Doubts::default();
    doubts.unknown("", config, &TOP);
    for (field, known) in [(THROTTLING, &THROTTLING_FIELDS[..]), (HEALTH, &["serviceName"])] {
        doubts.unknown_in(config, field, known);
    }
    doubts.unknown_in(config, SCALING, &["maxConnectionsPerSubchannel"]);
    doubts.policy(config, registry);
    let methods = json::present(config, METHODS).and_then(Value::as_array);
    let methods: Vec<_> = methods.into_iter().flatten().filter_map(Value::as_object).collect();
    for (index, fields) in methods.iter().enumerate() {
        doubts.method(&format!("{METHODS}[{index}]"), fields);
    }
    let has_more_attempts = methods
        .iter()
        .any(|fields| ATTEMPTS.iter().any(|(policy, _)| json::present(fields, policy).is_some()));
    if json::present(config, THROTTLING).is_some() && !has_more_attempts {
        doubts.add(THROTTLING, "no methodConfig has a retryPolicy or a hedgingPolicy to throttle");
    }
    doubts.0
}

#[derive(Default)]
struct Doubts(Vec<ServiceConfigError>);

impl Doubts {
    fn add(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.0.push(ServiceConfigError::new(path, reason));
    }

    /// Fields of the object at `path` that are not `known`.
    fn unknown(&mut self, path: &str, fields: &Map<String, Value>, known: &[&str]) {
        for field in fields.keys().filter(|field| !known.contains(&field.as_str())) {
            let at = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
            let plain = |name: &str| name.replace('_', "").to_ascii_lowercase();
            let meant = known.iter().find(|known| plain(known) == plain(field));
            let reason = match meant {
                Some(meant) => format!("is not known; `{meant}` is"),
                None => format!("is not known; there are: {}", known.join(", ")),
            };
            self.add(at, reason);
        }
    }

    fn unknown_in(&mut self, fields: &Map<String, Value>, field: &str, known: &[&str]) {
        if let Some(inner) = json::present(fields, field).and_then(Value::as_object) {
            self.unknown(field, inner, known);
        }
    }

    /// Which policy is chosen, and whether it goes by health.
    fn policy(&mut self, config: &Map<String, Value>, registry: &LbRegistry) {
        let list = json::present(config, FIELD).and_then(Value::as_array);
        let legacy = json::present(config, LEGACY).and_then(Value::as_str);
        if let (Some(_), Some(_)) = (list, legacy) {
            self.add(LEGACY, format!("{FIELD} counts in its place"));
        }
        let legacy = legacy.map(str::to_ascii_lowercase);
        if let (None, Some(name)) = (list, &legacy)
            && registry.get(name).is_none()
        {
            let known: Vec<_> = registry.names().collect();
            let reason = format!("`{name}` is not known; there are: {}", known.join(", "));
            self.add(LEGACY, reason);
        }
        let names = list.into_iter().flatten().filter_map(Value::as_object);
        let names = names.flat_map(|entry| entry.keys().map(String::as_str));
        let chosen = match list {
            Some(_) => names.into_iter().find(|name| registry.get(name).is_some()),
            None => legacy.as_deref().filter(|name| registry.get(name).is_some()),
        };
        let is_pick_first = chosen.is_none_or(|name| name == pick_first::NAME);
        let health = json::present(config, HEALTH).and_then(Value::as_object);
        match health.map(|health| json::present(health, "serviceName")) {
            Some(None) => self.add(HEALTH, "without a serviceName no server is asked"),
            Some(Some(_)) if is_pick_first => {
                self.add(HEALTH, "pick_first does not go by health; round_robin does");
            }
            Some(Some(_)) | None => {}
        }
    }

    fn method(&mut self, path: &str, fields: &Map<String, Value>) {
        self.unknown(path, fields, &METHOD_FIELDS);
        for (policy, known) in ATTEMPTS {
            if let Some(inner) = json::present(fields, policy).and_then(Value::as_object) {
                self.unknown(&format!("{path}.{policy}"), inner, known);
            }
        }
        if let Ok(Some(Err(_))) = json::optional_duration(fields, "timeout") {
            self.add(format!("{path}.timeout"), "is negative, and does not count");
        }
        let names = json::present(fields, "name").and_then(Value::as_array);
        let names: Vec<_> = names.into_iter().flatten().filter_map(Value::as_object).collect();
        if names.is_empty() {
            let reason = "has no name, and applies to no method; one for all is `\"name\": [{}]`";
            self.add(path, reason);
        }
        for (index, name) in names.iter().enumerate() {
            let path = format!("{path}.name[{index}]");
            self.unknown(&path, name, &["service", "method"]);
            let text = |field| json::optional_text(name, field).unwrap_or_default();
            let (service, method) = (text("service"), text("method"));
            if service.is_empty() {
                continue;
            }
            if !MethodPath::is_valid(&format!("/{service}/Method")) {
                let reason = format!("`{service}` is no service: expected package.Service");
                self.add(format!("{path}.service"), reason);
            } else if service.contains('/') {
                let reason = format!("`{service}` has a slash: put what follows it into `method`");
                self.add(format!("{path}.service"), reason);
            }
            if !method.is_empty()
                && (method.contains('/') || !MethodPath::is_valid(&format!("/service/{method}")))
            {
                let reason = format!("`{method}` is no method: expected its name alone");
                self.add(format!("{path}.method"), reason);
            }
        }
    }
}

const METHODS: &str = "methodConfig";
const THROTTLING: &str = "retryThrottling";
const LEGACY: &str = "loadBalancingPolicy";

const TOP: [&str; 6] = [FIELD, LEGACY, METHODS, THROTTLING, HEALTH, SCALING];

const METHOD_FIELDS: [&str; 7] = [
    "name",
    "timeout",
    "waitForReady",
    "maxRequestMessageBytes",
    "maxResponseMessageBytes",
    "retryPolicy",
    "hedgingPolicy",
];

const THROTTLING_FIELDS: [&str; 2] = ["maxTokens", "tokenRatio"];

/// The policies for attempts beyond the first, and their fields.
const ATTEMPTS: [(&str, &[&str]); 2] = [
    (
        "retryPolicy",
        &[
            "maxAttempts",
            "initialBackoff",
            "maxBackoff",
            "backoffMultiplier",
            "retryableStatusCodes",
        ],
    ),
    ("hedgingPolicy", &["maxAttempts", "hedgingDelay", "nonFatalStatusCodes"]),
];

#[cfg(test)]
mod tests {
    use super::super::ServiceConfig;
    use super::*;

    #[test]
    fn what_has_no_effect_is_named_with_what_would_have() {
        let method = |rest: &str| format!(r#"{{"methodConfig":[{{"name":[{{}}],{rest}}}]}}"#);
        let name = |name: &str| format!(r#"{{"methodConfig":[{{"name":[{name}]}}]}}"#);
        let retry = r#""maxAttempts":2,"initialBackoff":"1s","maxBackoff":"1s",
            "backoffMultiplier":1,"retryableStatusCodes":[14]"#;
        let health = r#""healthCheckConfig":{"serviceName":""}"#;
        let rows: [(String, &str); 24] = [
            ("{}".into(), ""),
            (r#"{"loadBalancingConfig":[{"round_robin":{}}]}"#.into(), ""),
            (r#"{"methodconfig":[]}"#.into(), "methodconfig: is not known; `methodConfig` is"),
            (r#"{"method_config":[]}"#.into(), "method_config: is not known; `methodConfig` is"),
            (
                r#"{"other":1}"#.into(),
                "other: is not known; there are: loadBalancingConfig, loadBalancingPolicy, \
                 methodConfig, retryThrottling, healthCheckConfig, connectionScaling",
            ),
            (method(r#""timeout":"1s""#), ""),
            (method(r#""time_out":"1s""#), "methodConfig[0].time_out: is not known; `timeout` is"),
            (
                method(r#""timeout":"-1s""#),
                "methodConfig[0].timeout: is negative, and does not count",
            ),
            (method(&format!(r#""retryPolicy":{{{retry}}}"#)), ""),
            (
                method(&format!(r#""retryPolicy":{{{retry},"jitter":1}}"#)),
                "methodConfig[0].retryPolicy.jitter: is not known; there are: maxAttempts, \
                 initialBackoff, maxBackoff, backoffMultiplier, retryableStatusCodes",
            ),
            (
                r#"{"methodConfig":[{"timeout":"1s"}]}"#.into(),
                "methodConfig[0]: has no name, and applies to no method; one for all is `\"name\": \
                 [{}]`",
            ),
            (name(r#"{"service":"a.B","method":"C"}"#), ""),
            (name(r#"{"service":"a.B"}"#), ""),
            (
                name(r#"{"service":"/a.B"}"#),
                "methodConfig[0].name[0].service: `/a.B` is no service: expected package.Service",
            ),
            (
                name(r#"{"service":"a B"}"#),
                "methodConfig[0].name[0].service: `a B` is no service: expected package.Service",
            ),
            (
                name(r#"{"service":"a.B/C"}"#),
                "methodConfig[0].name[0].service: `a.B/C` has a slash: put what follows it into \
                 `method`",
            ),
            (
                name(r#"{"service":"a.B","method":"a.B/C"}"#),
                "methodConfig[0].name[0].method: `a.B/C` is no method: expected its name alone",
            ),
            (
                name(r#"{"service":"a.B","Method":"C"}"#),
                "methodConfig[0].name[0].Method: is not known; `method` is",
            ),
            (
                format!("{{{health}}}"),
                "healthCheckConfig: pick_first does not go by health; round_robin does",
            ),
            (format!(r#"{{{health},"loadBalancingConfig":[{{"round_robin":{{}}}}]}}"#), ""),
            (
                r#"{"healthCheckConfig":{}}"#.into(),
                "healthCheckConfig: without a serviceName no server is asked",
            ),
            (
                r#"{"loadBalancingPolicy":"rr"}"#.into(),
                "loadBalancingPolicy: `rr` is not known; there are: pick_first, round_robin",
            ),
            (
                r#"{"loadBalancingPolicy":"x","loadBalancingConfig":[{"pick_first":{}}]}"#.into(),
                "loadBalancingPolicy: loadBalancingConfig counts in its place",
            ),
            (
                r#"{"retryThrottling":{"maxTokens":10,"tokenRatio":1}}"#.into(),
                "retryThrottling: no methodConfig has a retryPolicy or a hedgingPolicy to throttle",
            ),
        ];
        let registry = LbRegistry::default();
        for (json, expected) in rows {
            ServiceConfig::parse(&json, &registry).unwrap();
            let doubts = ServiceConfig::doubts(&json, &registry);
            let doubts: Vec<_> = doubts.iter().map(ToString::to_string).collect();
            assert_eq!(doubts.join("; "), expected, "{json}");
        }
    }
}
