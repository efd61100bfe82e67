//! Dialling, for programs that are used to it.

use std::error::Error as _;
use std::time::Duration;

use switchboard::{BackoffConfig, BuildError, Code, ConnectivityState, DialError};

use crate::support::greeter::{Greeter, SAY_HELLO, ask, target_of};
use crate::support::{close_without_leaks, no_leaks, plaintext};

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_dialled_channel_is_ready_and_its_target_an_address() {
    let greeter = [Greeter::start()];
    let channel = plaintext(greeter[0].address().to_string()).dial(LONG).await.unwrap();
    assert_eq!(channel.state(), ConnectivityState::Ready);
    assert_eq!(channel.target(), format!("dns:///{}", greeter[0].address()));
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(greeter[0].accepted(), 1);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn dialling_waits_for_a_server_that_comes_late() {
    let mut greeter = [Greeter::start()];
    let address = greeter[0].address().to_string();
    greeter[0].kill();
    let wait = Duration::from_millis(10);
    let backoff = BackoffConfig { base_delay: wait, max_delay: wait, ..BackoffConfig::default() };
    let dialling =
        tokio::spawn(async move { plaintext(address).backoff(backoff).dial(LONG).await });
    tokio::task::yield_now().await;
    greeter[0].start_again();
    let channel = dialling.await.unwrap().unwrap();
    assert_eq!(channel.state(), ConnectivityState::Ready);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_connected_in_time_says_why() {
    let since = tokio::time::Instant::now();
    let error = plaintext("127.0.0.1:1").dial(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(since.elapsed().as_secs(), 5);
    assert_eq!(
        error.to_string(),
        "dns:///127.0.0.1:1 was not connected within 5s: 127.0.0.1:1: connection refused \
         (os error 111)"
    );
    // The text has told the whole chain.
    assert!(error.source().is_none());
    let DialError::NotReady { cause: Some(status), .. } = &error else { panic!("{error}") };
    let chain = std::iter::successors(status.cause(), |&error| error.source());
    let cause = chain.last().unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused);
    no_leaks(&[]).await;
}

#[tokio::test]
async fn a_channel_is_waited_for_until_it_is_ready_or_cannot_be() {
    let greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter)).build().unwrap();
    channel.ready(LONG).await.unwrap();
    assert_eq!(channel.state(), ConnectivityState::Ready);
    // It is, so no time is needed.
    channel.ready(Duration::ZERO).await.unwrap();
    channel.close().await;
    let closed = channel.ready(LONG).await.unwrap_err();
    assert_eq!((closed.code(), closed.message()), (Code::CANCELLED, "the channel is closed"));

    let refused = plaintext("ipv4:127.0.0.1:1").build().unwrap();
    let late = refused.ready(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(late.code(), Code::DEADLINE_EXCEEDED);
    for part in ["ipv4:127.0.0.1:1 was not READY within 50ms", "connection refused"] {
        assert!(late.message().contains(part), "{late}");
    }
    assert!(late.cause().is_some());
    // It goes on without anybody waiting.
    assert_ne!(refused.state(), ConnectivityState::Idle);
    let waiting = tokio::spawn({
        let channel = refused.clone();
        async move { channel.ready(LONG).await }
    });
    tokio::task::yield_now().await;
    refused.close().await;
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::CANCELLED);
    no_leaks(&greeter).await;
}

#[tokio::test]
async fn a_server_that_never_speaks_is_told_from_one_that_refuses() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let error = plaintext(address).dial(Duration::from_millis(50)).await.unwrap_err();
    let DialError::NotReady { state, cause, .. } = &error else { panic!("{error}") };
    assert_eq!((*state, cause.is_none()), (ConnectivityState::Connecting, true));
    assert!(error.to_string().contains("it is CONNECTING, and no attempt has failed"), "{error}");
    no_leaks(&[]).await;
}

#[tokio::test]
async fn what_cannot_be_built_is_not_dialled() {
    let error = switchboard::Channel::builder("x").dial(LONG).await.unwrap_err();
    assert!(matches!(error, DialError::Build(BuildError::NoCredentials)), "{error}");
}
