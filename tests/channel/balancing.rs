//! Which server a call goes to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use switchboard::{
    CallOptions, Code, EndpointShards, LbContext, LbPolicy, LbPolicyBuilder, LbPolicyConfig,
    Metadata, PickArgs, PickResult, Picker, ReadyEndpoint, ServiceConfigError, Spread, Status,
};

use crate::support::greeter::{BIDI_HELLO, Greeter, SAY_HELLO, ask, target_of};
use crate::support::{close_without_leaks, plaintext};

// spec: A62/shuffle
#[tokio::test]
async fn clients_that_shuffle_spread_over_the_servers_and_others_take_the_first() {
    let greeters = [Greeter::start(), Greeter::start(), Greeter::start()];
    let mut chosen = BTreeSet::new();
    for seed in 0..30 {
        let shuffled = plaintext(target_of(&greeters))
            .default_service_config(
                r#"{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}"#,
            )
            .seed(seed);
        let channel = shuffled.build().unwrap();
        let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        chosen.insert(reply.peer().to_string());
        let again = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        assert_eq!(again.peer(), reply.peer(), "all calls of a channel go to one server");
        channel.close().await;

        let channel = plaintext(target_of(&greeters)).seed(seed).build().unwrap();
        let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        assert_eq!(reply.peer().to_string(), greeters[0].address().to_string());
        close_without_leaks(channel, &greeters).await;
    }
    assert_eq!(chosen.len(), 3, "{chosen:?}");
}

/// A picker that says the same to all calls.
#[derive(Clone)]
struct Says(Say, Status);

/// What becomes of a call, with this status.
type Say = fn(Status) -> PickResult;

impl LbPolicyBuilder for Says {
    fn name(&self) -> &'static str {
        "says"
    }

    fn parse_config(&self, _: &serde_json::Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        Ok(LbPolicyConfig::new(()))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        Box::new(EndpointShards::new(self.clone()))
    }
}

impl Spread for Says {
    fn name(&self) -> &'static str {
        "says"
    }

    fn picker(&mut self, _: &[ReadyEndpoint<'_>], _: &mut LbContext<'_>) -> Arc<dyn Picker> {
        Arc::new(self.clone())
    }
}

impl Picker for Says {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        self.0(self.1.clone())
    }
}

// spec: A54/restricted-codes
// spec: A54/picker
#[tokio::test]
async fn a_picker_cannot_speak_for_the_server() {
    let greeters = [Greeter::start()];
    for number in 0..17 {
        let code = Code::from_number(number);
        let is_restricted = matches!(number, 0 | 3 | 5 | 6 | 9 | 10 | 11 | 15);
        let expected = if is_restricted { Code::INTERNAL } else { code };
        for says in [PickResult::Fail, PickResult::Drop] {
            let mut metadata = Metadata::new();
            metadata.insert("grpc-retry-pushback-ms", "0").unwrap();
            let status = Status::new(code, "the picker's reason").with_metadata(metadata);
            let channel = plaintext(target_of(&greeters))
                .lb_policy(Says(says, status))
                .default_service_config(r#"{"loadBalancingConfig":[{"says":{}}]}"#)
                .build()
                .unwrap();
            let timeout = Duration::from_secs(20);
            let request = ask("Ada").timeout(timeout);
            let unary = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
            let options = CallOptions::new().timeout(timeout);
            let stream = channel.new_stream(&BIDI_HELLO, options).await.unwrap_err();
            for status in [unary, stream] {
                assert_eq!(status.code(), expected, "{code}");
                assert!(status.message().contains("the picker's reason"), "{status}");
            }
            channel.close().await;
        }
    }
    assert_eq!(greeters[0].received(), 0);
}

// spec: A54/picker
#[tokio::test]
async fn the_policy_of_retries_goes_by_the_code_that_is_left_of_a_pickers() {
    let greeters = [Greeter::start()];
    let retried = |codes: &str| {
        format!(
            r#"{{"loadBalancingConfig":[{{"says":{{}}}}],"methodConfig":[{{"name":[{{}}],
            "retryPolicy":{{"maxAttempts":3,"initialBackoff":"0.001s","maxBackoff":"0.001s",
            "backoffMultiplier":1,"retryableStatusCodes":[{codes}]}}}}]}}"#
        )
    };
    let aborted = Status::new(Code::ABORTED, "no");
    let rows: [(&str, Say, bool); 3] = [
        (r#""ABORTED""#, PickResult::Fail, false),
        (r#""INTERNAL""#, PickResult::Fail, true),
        // What is dropped is not attempted again.
        (r#""INTERNAL""#, PickResult::Drop, false),
    ];
    for (codes, says, is_retried) in rows {
        let builder = plaintext(target_of(&greeters)).lb_policy(Says(says, aborted.clone()));
        let channel = builder.default_service_config(retried(codes)).build().unwrap();
        let request = ask("Ada").timeout(Duration::from_secs(20));
        let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
        assert_eq!(status.code(), Code::INTERNAL);
        let was_retried = status.message().contains("failed after 3 attempts");
        assert_eq!(was_retried, is_retried, "{status}");
        channel.close().await;
    }
}
