use std::sync::Arc;

use super::*;

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
