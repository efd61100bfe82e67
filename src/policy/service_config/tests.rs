use std::sync::Arc;

use super::*;
use crate::types::{AttemptPolicy, Code};

fn parse(text: &str) -> Result<ServiceConfig, ServiceConfigError> {
    ServiceConfig::parse(text, &LbRegistry::default())
}

// spec: A24/first-known-wins
#[test]
fn the_first_policy_that_is_known_counts() {
    let rows = [
        ("{}", "pick_first"),
        (r#"{"unknown": 1}"#, "pick_first"),
        (r#"{"loadBalancingConfig": null}"#, "pick_first"),
        // Names of fields match exactly.
        (r#"{"LoadBalancingConfig": 3}"#, "pick_first"),
        (r#"{"loadBalancingConfig": [{"round_robin": {}}]}"#, "round_robin"),
        // Any JSON is a config of round_robin.
        (r#"{"loadBalancingConfig": [{"round_robin": 7}]}"#, "round_robin"),
        (
            r#"{"loadBalancingConfig": [{"new": 1}, {"round_robin": {}}, {"pick_first": {}}]}"#,
            "round_robin",
        ),
        // What comes after it is not looked at.
        (r#"{"loadBalancingConfig": [{"round_robin": {}}, {"a": 1, "b": 2}]}"#, "round_robin"),
        (r#"{"loadBalancingConfig": [{"pick_first": {"more": 1}}]}"#, "pick_first"),
    ];
    for (text, policy) in rows {
        assert_eq!(parse(text).unwrap().lb().name(), policy, "{text}");
    }
}

// spec: A21/one-bad-field
#[test]
fn a_config_that_is_wrong_anywhere_is_refused_with_the_place_and_the_reason() {
    let rows = [
        ("", "the service config is empty; one without settings is {}"),
        (" \n", "the service config is empty"),
        ("[]", "the service config must be an object"),
        ("{\n  \"a\": }", "at line 2 column 8"),
        (r#"{"loadBalancingConfig": {}}"#, "loadBalancingConfig: must be a list"),
        (r#"{"loadBalancingConfig": []}"#, "loadBalancingConfig: names no policy"),
        (
            r#"{"loadBalancingConfig": [{"new": {}}, {"Round_Robin": {}}]}"#,
            "loadBalancingConfig: none of the policies `new`, `Round_Robin` is known; there are: \
             pick_first, round_robin",
        ),
        (
            r#"{"loadBalancingConfig": [{}]}"#,
            "loadBalancingConfig[0]: must be an object with one key",
        ),
        (
            r#"{"loadBalancingConfig": [{"new": 1}, {"a": 1, "b": 2}]}"#,
            "loadBalancingConfig[1]: must be an object with one key",
        ),
        (
            r#"{"loadBalancingConfig": ["round_robin"]}"#,
            "loadBalancingConfig[0]: must be an object with one key",
        ),
        (
            r#"{"loadBalancingConfig": [{"pick_first": 3}]}"#,
            "loadBalancingConfig[0].pick_first: must be an object",
        ),
        // A bad config does not make way for the next policy.
        (
            r#"{"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": "yes"}},
                {"round_robin": {}}]}"#,
            "loadBalancingConfig[0].pick_first.shuffleAddressList: must be true or false",
        ),
    ];
    for (text, part) in rows {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn what_is_wrong_about_a_method_is_told_with_the_place_and_the_reason() {
    let rows = [
        (r#"{"loadBalancingPolicy": 1}"#, "loadBalancingPolicy: must be a text"),
        (r#"{"methodConfig": {}}"#, "methodConfig: must be a list"),
        (r#"{"methodConfig": [3]}"#, "methodConfig[0]: must be an object"),
        (
            r#"{"methodConfig": [{"name": [{"method": "M"}]}]}"#,
            "methodConfig[0].name[0]: there is a method without a service",
        ),
        (
            r#"{"methodConfig": [{"name": [{"service": 1}]}]}"#,
            "methodConfig[0].name[0].service: must be a text",
        ),
        (
            r#"{"methodConfig": [{"name": [{"service": "s"}]}, {"name": [{}, {"service": "s"}]}]}"#,
            "methodConfig[1].name[1]: another methodConfig is for the same name",
        ),
        (
            r#"{"methodConfig": [{"timeout": 1}]}"#,
            "methodConfig[0].timeout: must be a duration such as \"1.5s\"",
        ),
        (
            r#"{"methodConfig": [{"maxRequestMessageBytes": "1"}]}"#,
            "methodConfig[0].maxRequestMessageBytes: must be a number of bytes",
        ),
        (
            r#"{"methodConfig": [{"retryPolicy": {"maxAttempts": 1}}]}"#,
            "methodConfig[0].retryPolicy.backoffMultiplier: is missing",
        ),
        (
            r#"{"methodConfig": [{"retryPolicy": {"maxAttempts": 1, "initialBackoff": "1s",
                "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": [14]}}]}"#,
            "methodConfig[0].retryPolicy.maxAttempts: must be a number of at least 2",
        ),
        (
            r#"{"methodConfig": [{"retryPolicy": {"maxAttempts": 2, "initialBackoff": "0s",
                "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": [14]}}]}"#,
            "methodConfig[0].retryPolicy.initialBackoff: must be more than 0",
        ),
        (
            r#"{"methodConfig": [{"retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s",
                "maxBackoff": "1s", "backoffMultiplier": 0, "retryableStatusCodes": [14]}}]}"#,
            "methodConfig[0].retryPolicy.backoffMultiplier: must be more than 0",
        ),
        (
            r#"{"methodConfig": [{"retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s",
                "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": []}}]}"#,
            "methodConfig[0].retryPolicy.retryableStatusCodes: must have at least one code",
        ),
        (
            r#"{"methodConfig": [{"retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s",
                "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": [14, 17]}}]}"#,
            "methodConfig[0].retryPolicy.retryableStatusCodes[1]: 17 is no status code",
        ),
        (
            r#"{"methodConfig": [{"hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "-1s"}}]}"#,
            "methodConfig[0].hedgingPolicy.hedgingDelay: must not be negative",
        ),
        (
            r#"{"methodConfig": [{"hedgingPolicy": {}, "retryPolicy": {}}]}"#,
            "methodConfig[0].hedgingPolicy: there is a retryPolicy already",
        ),
        (
            r#"{"retryThrottling": {"maxTokens": 0, "tokenRatio": 1}}"#,
            "retryThrottling.maxTokens: must be a number from 1 to 1000",
        ),
        (
            r#"{"retryThrottling": {"maxTokens": 10, "tokenRatio": 0}}"#,
            "retryThrottling.tokenRatio: must be more than 0",
        ),
        (r#"{"retryThrottling": {"maxTokens": 10}}"#, "retryThrottling.tokenRatio: is missing"),
    ];
    for (text, part) in rows {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

// spec: A62/shuffle
#[test]
fn shuffling_is_off_unless_asked_for() {
    let shuffle = |config: &str| {
        let text = format!(r#"{{"loadBalancingConfig": [{{"pick_first": {config}}}]}}"#);
        let config = parse(&text).unwrap();
        let config = config.lb().config().get::<pick_first::Config>().copied();
        config.unwrap().shuffle_address_list
    };
    assert!(!shuffle("{}"));
    assert!(!shuffle(r#"{"shuffleAddressList": null}"#));
    assert!(!shuffle(r#"{"shuffleAddressList": false}"#));
    assert!(shuffle(r#"{"shuffleAddressList": true}"#));
}

#[test]
fn the_default_is_pick_first() {
    let config = ServiceConfig::default_for(&LbRegistry::default());
    assert_eq!(config.lb().name(), "pick_first");
}

#[test]
fn a_registry_is_its_channels_own() {
    struct Mine;
    impl LbPolicyBuilder for Mine {
        fn name(&self) -> &'static str {
            "mine"
        }
        fn parse_config(&self, json: &Value) -> Result<LbPolicyConfig, ServiceConfigError> {
            Err(ServiceConfigError::new("[3]", json.to_string()))
        }
        fn build(&self) -> Box<dyn crate::policy::LbPolicy> {
            pick_first::Builder.build()
        }
    }
    let text = r#"{"loadBalancingConfig": [{"mine": 5}, {"pick_first": {}}]}"#;
    let original = LbRegistry::default();
    let mut own = original.clone();
    own.register(Arc::new(Mine));
    assert!(ServiceConfig::parse(text, &original).is_ok());
    let error = ServiceConfig::parse(text, &own).unwrap_err();
    assert_eq!(error.path(), "loadBalancingConfig[0].mine[3]");
    assert_eq!(error.reason(), "5");
}

#[test]
fn the_policy_of_old_counts_where_there_is_no_list() {
    for (text, policy) in [
        (r#"{"loadBalancingPolicy": "ROUND_ROBIN"}"#, "round_robin"),
        (r#"{"loadBalancingPolicy": "unknown"}"#, "pick_first"),
        (
            r#"{"loadBalancingPolicy": "round_robin", "loadBalancingConfig": [{"pick_first": {}}]}"#,
            "pick_first",
        ),
    ] {
        assert_eq!(parse(text).unwrap().lb().name(), policy, "{text}");
    }
}

// spec: A6/method-config
#[test]
fn a_method_goes_by_its_own_config_or_its_services_or_that_of_all() {
    let config = parse(
        r#"{"methodConfig": [
            {"name": [{}], "timeout": "1s", "waitForReady": null},
            {"name": [{"service": "a.S"}, {"service": "a.T", "method": "M"}], "timeout": "2s"},
            {"name": [{"service": "a.S", "method": "M"}], "timeout": "-3s", "waitForReady": true},
            {"timeout": "4s"}
        ]}"#,
    );
    let config = config.unwrap();
    let of = |path: &str| {
        let config = config.method(&MethodPath::parse(path).unwrap()).unwrap();
        (config.timeout.map(|timeout| timeout.as_secs()), config.wait_for_ready)
    };
    assert_eq!(of("/a.S/M"), (None, Some(true)));
    assert_eq!(of("/a.S/N"), (Some(2), None));
    assert_eq!(of("/a.T/M"), (Some(2), None));
    assert_eq!(of("/a.T/N"), (Some(1), None));
    assert_eq!(of("/b.S/M"), (Some(1), None));
    assert!(parse("{}").unwrap().method(&MethodPath::parse("/a.S/M").unwrap()).is_none());
}

#[test]
fn policies_for_attempts_are_read_whole() {
    let config = parse(
        r#"{"methodConfig": [
            {"name": [{"service": "r"}], "retryPolicy": {"maxAttempts": 9, "initialBackoff": "0.1s",
             "maxBackoff": "5s", "backoffMultiplier": 1.5,
             "retryableStatusCodes": ["unavailable", 10, "CANCELED"]}},
            {"name": [{"service": "h"}], "hedgingPolicy": {"maxAttempts": 3,
             "hedgingDelay": "0.02s", "nonFatalStatusCodes": ["ABORTED"]}}]}"#,
    );
    let config = config.unwrap();
    let of =
        |path: &str| config.method(&MethodPath::parse(path).unwrap()).unwrap().attempts.clone();
    let AttemptPolicy::Retry(retry) = of("/r/M") else { panic!("it is a retryPolicy") };
    assert_eq!((retry.max_attempts, retry.initial_backoff.as_millis()), (9, 100));
    assert_eq!((retry.max_backoff.as_secs(), retry.multiplier), (5, 1.5));
    let codes = [Code::UNAVAILABLE, Code::ABORTED, Code::CANCELLED];
    assert!(codes.into_iter().all(|code| retry.codes.contains(code)));
    let AttemptPolicy::Hedging(hedging) = of("/h/M") else { panic!("it is a hedgingPolicy") };
    assert_eq!((hedging.max_attempts, hedging.delay.as_millis()), (3, 20));
    assert!(hedging.non_fatal.contains(Code::ABORTED));
}

#[test]
fn the_config_of_a_method_is_read_by_itself_as_it_is_within_a_service_config() {
    let text = r#"{"name": 7, "timeout": "1.5s", "waitForReady": true, "maxRequestMessageBytes": 1,
        "maxResponseMessageBytes": 2}"#;
    let built = MethodConfig::new()
        .timeout(std::time::Duration::from_millis(1_500))
        .wait_for_ready(true)
        .max_request_message_bytes(1)
        .max_response_message_bytes(2);
    assert_eq!(MethodConfig::from_json(text), Ok(built));
    assert_eq!(MethodConfig::from_json("{}"), Ok(MethodConfig::new()));
    let rows = [
        ("", "the method config is empty"),
        ("[]", "the method config must be an object"),
        (r#"{"timeout": 1}"#, "timeout: must be a duration"),
        (r#"{"hedgingPolicy": {"maxAttempts": 1}}"#, "hedgingPolicy.maxAttempts: must be"),
    ];
    for (text, part) in rows {
        let error = MethodConfig::from_json(text).unwrap_err().to_string();
        assert!(error.starts_with(part), "{text}: {error}");
    }
}

#[test]
fn a_config_that_says_the_same_of_throttling_goes_on_with_its_tokens() {
    let throttled = |max| {
        let text = format!(r#"{{"retryThrottling": {{"maxTokens": {max}, "tokenRatio": 0.1}}}}"#);
        Arc::new(parse(&text).unwrap())
    };
    let first = throttled(2);
    assert!(!first.throttle().unwrap().failed());
    let same = throttled(2).go_on_from(Some(&first));
    assert!(!same.throttle().unwrap().failed());
    let other = throttled(9).go_on_from(Some(&same));
    assert!(other.throttle().unwrap().failed());
    assert!(throttled(9).go_on_from(None).throttle().unwrap().failed());
}

// spec: A17/service-config
#[test]
fn a_service_name_switches_health_checks_on() {
    let rows = [
        ("{}", None),
        (r#"{"healthCheckConfig": null}"#, None),
        (r#"{"healthCheckConfig": {}}"#, None),
        (r#"{"healthCheckConfig": {"serviceName": null}}"#, None),
        (r#"{"healthCheckConfig": {"serviceName": ""}}"#, Some("")),
        (r#"{"healthCheckConfig": {"serviceName": "a.S", "more": 1}}"#, Some("a.S")),
    ];
    for (text, service) in rows {
        assert_eq!(parse(text).unwrap().health_service().map(|it| &**it), service, "{text}");
    }
    let rows = [
        (r#"{"healthCheckConfig": "a.S"}"#, "healthCheckConfig: must be an object"),
        (
            r#"{"healthCheckConfig": {"serviceName": 3}}"#,
            "healthCheckConfig.serviceName: must be a text",
        ),
    ];
    for (text, part) in rows {
        assert_eq!(parse(text).unwrap_err().to_string(), part);
    }
}
