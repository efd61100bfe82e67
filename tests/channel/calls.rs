//! Unary calls: what goes out, what comes back.

use std::time::Duration;

use switchboard::{Channel, Code, Raw, Request};

use crate::support::greeter::{Greeter, SAY_HELLO, ask, hello, target_of};
use crate::support::{close_without_leaks, plaintext, until};

fn greeted() -> (Channel, [Greeter; 1]) {
    let greeter = [Greeter::start()];
    (plaintext(target_of(&greeter)).build().unwrap(), greeter)
}

#[tokio::test]
async fn a_call_is_answered_and_says_by_whom() {
    let (channel, greeter) = greeted();
    let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert!(reply.message().message.starts_with("Hello Ada"));
    assert_eq!(reply.peer().to_string(), greeter[0].address().to_string());
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_path_will_do_for_a_method() {
    let (channel, greeter) = greeted();
    let reply: switchboard::Response<crate::support::greeter::HelloReply> =
        channel.invoke("/helloworld.Greeter/SayHello", ask("Ada")).await.unwrap();
    assert!(reply.into_message().message.starts_with("Hello Ada"));
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn bytes_can_be_sent_as_they_are() {
    const RAW: switchboard::Method<bytes::Bytes, bytes::Bytes> =
        switchboard::Method::with_codec::<Raw>("/helloworld.Greeter/SayHello");
    let (channel, greeter) = greeted();
    let encoded = prost::Message::encode_to_vec(&hello("Ada"));
    let reply = channel.invoke(&RAW, Request::new(bytes::Bytes::from(encoded))).await.unwrap();
    let reply: crate::support::greeter::HelloReply =
        prost::Message::decode(reply.into_message()).unwrap();
    assert!(reply.message.starts_with("Hello Ada"));
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn metadata_goes_both_ways_as_text_and_as_bytes() {
    let (channel, greeter) = greeted();
    let mut request = ask("Ada");
    request.metadata_mut().append("echo", "one").unwrap();
    request.metadata_mut().append("echo", "two").unwrap();
    request.metadata_mut().append_bin("echo-bin", &[0, 1, 255]).unwrap();
    let reply = channel.invoke(&SAY_HELLO, request).await.unwrap();
    assert_eq!(reply.metadata().get_all("echo").collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(reply.metadata().get_bin("echo-bin").unwrap().as_ref(), [0, 1, 255]);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn the_status_of_the_server_arrives_with_its_message_and_metadata() {
    let (channel, greeter) = greeted();
    let refused = channel.invoke(&SAY_HELLO, ask("fail:9:not now, später")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FAILED_PRECONDITION);
    assert_eq!(refused.message(), "not now, später");
    assert_eq!(refused.metadata().get("reason"), Some("asked-for"));
    let unknown: Result<switchboard::Response<crate::support::greeter::HelloReply>, _> =
        channel.invoke("/helloworld.Greeter/Nothing", ask("Ada")).await;
    assert_eq!(unknown.unwrap_err().code(), Code::UNIMPLEMENTED);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn dropping_a_call_cancels_it_at_the_server() {
    let (channel, greeter) = greeted();
    greeter[0].hold();
    let calling = tokio::spawn({
        let channel = channel.clone();
        async move { channel.invoke(&SAY_HELLO, ask("Ada")).await.map(drop) }
    });
    until("the server is at it", async || greeter[0].open_calls() == 1).await;
    calling.abort();
    until("the server has given it up", async || greeter[0].open_calls() == 0).await;
    assert_eq!(greeter[0].answered(), 0);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_message_over_its_limit_ends_its_call_and_no_other() {
    let (channel, greeter) = greeted();
    let long = "x".repeat(100_000);
    let request = ask(&long).max_send_message_bytes(1_000);
    let too_long = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    assert_eq!(too_long.code(), Code::RESOURCE_EXHAUSTED);
    assert!(too_long.message().contains("raise max_send_message_bytes"), "{too_long}");
    let request = ask(&long).max_receive_message_bytes(1_000);
    let too_long = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    assert_eq!(too_long.code(), Code::RESOURCE_EXHAUSTED);
    assert!(too_long.message().contains("raise max_receive_message_bytes"), "{too_long}");
    channel.invoke(&SAY_HELLO, ask(&long)).await.unwrap();
    assert_eq!(greeter[0].accepted(), 1, "the connection stays");
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn calls_beyond_what_the_server_takes_wait_their_turn() {
    let greeter = [Greeter::start_with_max_streams(1)];
    let channel = plaintext(target_of(&greeter)).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("first")).await.unwrap();
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move {
                let request = ask("Ada").timeout(Duration::from_secs(20));
                channel.invoke(&SAY_HELLO, request).await.map(drop)
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn more_metadata_than_the_server_takes_is_named_and_sends_nothing() {
    let greeter = Greeter::start();
    let channel = plaintext(target_of([&greeter])).build().unwrap();
    let mut request = ask("Ada");
    request.metadata_mut().insert("key", "v".repeat(20_000)).unwrap();
    let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    assert_eq!(status.code(), Code::INTERNAL);
    let expected = "bytes of header fields, and the server takes 16384: send less metadata";
    assert!(status.message().contains(expected), "{status}");
    assert_eq!(greeter.received(), 0);
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(greeter.accepted(), 1);
    close_without_leaks(channel, &[greeter]).await;
}
