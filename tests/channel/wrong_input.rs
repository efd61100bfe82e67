//! What a newcomer may get wrong, and what the library says to it.

use switchboard::{
    Address, BuildError, CallOptions, Channel, Code, Credentials, Endpoint, ManualResolver,
    Metadata, ResolveError,
};

use crate::support::greeter::{HelloReply, SAY_HELLO, ask};
use crate::support::plaintext;

#[test]
fn a_target_that_makes_no_sense_is_refused_when_the_channel_is_built() {
    let rows = [
        ("", "the target is empty"),
        ("gopher:///greeter", "no resolver is registered"),
        ("gopher:///greeter", "dns, ipv4, ipv6, passthrough"),
        ("greeter:99999", "99999"),
        ("dns:///greeter:99999", "from 1 to 65535"),
        ("http://greeter.example:80", "give the name alone, `greeter.example:80`"),
        ("https://greeter.example", "say by the credentials"),
        ("ipv4:greeter:80", "an IPv4 address"),
        ("ipv6:127.0.0.1:80", "an IPv6 address"),
        ("passthrough:", "passthrough:"),
        ("dns:///greeter:", "greeter:"),
    ];
    for (target, part) in rows {
        let error = plaintext(target).build().unwrap_err();
        assert!(matches!(error, BuildError::InvalidTarget(_)), "{target}: {error:?}");
        assert!(error.to_string().contains(part), "{target}: {error}");
    }
}

#[test]
fn credentials_have_to_be_named() {
    let error = Channel::builder("greeter:1").build().unwrap_err();
    assert_eq!(error, BuildError::NoCredentials);
    assert!(error.to_string().contains("Credentials::insecure()"), "{error}");
}

#[test]
fn a_service_config_is_checked_where_it_is_given() {
    let rows = [
        ("", "empty"),
        ("{", "line 1"),
        (r#"{"loadBalancingConfig":[{"best_of_all":{}}]}"#, "loadBalancingConfig"),
        (
            r#"{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":7}}]}"#,
            "shuffleAddressList",
        ),
    ];
    for (json, part) in rows {
        let error = plaintext("greeter:1").default_service_config(json).build().unwrap_err();
        assert!(matches!(error, BuildError::InvalidServiceConfig(_)), "{json}: {error:?}");
        assert!(error.to_string().contains(part), "{json}: {error}");
    }
}

#[test]
fn other_settings_are_checked_too() {
    let error = plaintext("greeter:1").authority("a b").build().unwrap_err();
    assert!(matches!(error, BuildError::InvalidAuthority(_)), "{error:?}");
    let error = plaintext("greeter:1").user_agent("grüße").build().unwrap_err();
    assert!(matches!(error, BuildError::InvalidUserAgent(_)), "{error:?}");
    let backoff = switchboard::BackoffConfig { multiplier: 0.5, ..Default::default() };
    let error = plaintext("greeter:1").backoff(backoff).build().unwrap_err();
    assert!(error.to_string().contains("multiplier"), "{error}");
    assert!(CallOptions::new().authority("a b").is_err());
}

#[test]
fn metadata_is_checked_where_it_is_added() {
    let mut metadata = Metadata::new();
    assert!(metadata.append("grpc-timeout", "1S").is_err());
    assert!(metadata.append("no spaces", "x").is_err());
    assert!(metadata.append("text", "nöt ascii").is_err());
    assert!(metadata.append("bytes-bin", "text").unwrap_err().to_string().contains("append_bin"));
    assert!(metadata.is_empty());
}

#[tokio::test]
async fn a_path_that_is_none_fails_its_call() {
    let channel = plaintext("ipv4:127.0.0.1:1").build().unwrap();
    let call = channel.invoke::<_, HelloReply>("SayHello", ask("Ada"));
    let status = call.await.unwrap_err();
    assert_eq!(status.code(), Code::INTERNAL);
    assert!(status.message().contains("/package.Service/Method"), "{status}");
}

#[test]
fn a_first_call_outside_of_any_runtime_says_what_to_do() {
    let channel = Channel::builder("greeter:1").credentials(Credentials::insecure());
    let channel = channel.build().unwrap();
    channel.connect();
    let mut call = std::pin::pin!(channel.invoke(&SAY_HELLO, ask("Ada")));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match call.as_mut().poll(&mut cx) {
        std::task::Poll::Ready(Err(status)) => {
            assert_eq!(status.code(), Code::UNAVAILABLE);
            assert!(status.message().contains("ChannelBuilder::runtime"), "{status}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_future_of_a_call_is_small() {
    let channel = plaintext("greeter:1").build().unwrap();
    let size = size_of_val(&channel.invoke(&SAY_HELLO, ask("Ada")));
    assert!(size <= 2048, "{size} bytes");
}

// What resolvers say may come off a wire as well.
#[tokio::test]
async fn what_a_resolver_says_is_shown_in_its_line() {
    let failing = ManualResolver::new();
    failing.fail(ResolveError::new("no answer from \u{1b}[2J\r\nERROR forged"));
    let strange = ManualResolver::new();
    let name = Address::Name("greeter\u{1b}[31m\r\n".into());
    strange.set([Endpoint::from(name)]);
    for (resolver, part) in
        [(failing, "\\u{1b}[2J\\r\\nERROR forged"), (strange, "greeter\\u{1b}[31m\\r\\n")]
    {
        let channel = plaintext("manual:///greeter").resolver("manual", resolver).build().unwrap();
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        let seen = channel.inspect().await.to_string();
        for shown in [status.to_string(), format!("{status:?}"), seen.replace('\n', "")] {
            assert!(shown.contains(part) && !shown.contains(char::is_control), "{shown}");
        }
        channel.close().await;
    }
}
