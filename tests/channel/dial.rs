//! Dialling, for programs that are used to it.

use std::error::Error as _;
use std::time::Duration;

use switchboard::{BackoffConfig, BuildError, ConnectivityState, DialError};

use crate::support::greeter::{Greeter, SAY_HELLO, ask};
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
    let status = error.source().unwrap();
    let cause = std::iter::successors(Some(status), |&error| error.source()).last().unwrap();
    let cause = cause.downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused);
    no_leaks(&[]).await;
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
