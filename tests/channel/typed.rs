//! Calls by what the kind of their method has, and the ends of requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use switchboard::{CallOptions, Channel, Code, Method, Raw, Request, kind};
use tokio_stream::StreamExt as _;

use crate::support::greeter::{
    BIDI_HELLO, Greeter, LOTS_OF_GREETINGS, LOTS_OF_REPLIES, SAY_HELLO, ask, hello, target_of,
};
use crate::support::{close_without_leaks, plaintext, until};

fn greeted() -> (Channel, [Greeter; 1]) {
    let greeter = [Greeter::start()];
    (plaintext(target_of(&greeter)).build().unwrap(), greeter)
}

#[tokio::test]
async fn each_kind_has_a_call_of_its_own() {
    let (channel, greeter) = greeted();
    let reply = channel.invoke(SAY_HELLO, ask("Ada")).await.unwrap();
    assert!(reply.message().message.starts_with("Hello Ada"));

    let request = Request::new(hello("Ada Grace Edsger"));
    let replies = channel.server_streaming(LOTS_OF_REPLIES, request).await.unwrap();
    let replies: Vec<_> = replies.map(|reply| reply.unwrap().message).collect().await;
    assert_eq!(replies.len(), 3);
    assert!(replies[2].starts_with("Hello Edsger"), "{replies:?}");

    let names = Request::new(tokio_stream::iter(["Ada", "Grace"].map(hello)));
    let reply = channel.client_streaming(LOTS_OF_GREETINGS, names).await.unwrap();
    let text = &reply.message().message;
    assert!(text.contains("Ada") && text.contains("Grace"), "{text}");
    assert_eq!(reply.peer().to_string(), greeter[0].address().to_string());

    let names = Request::new(tokio_stream::iter(["Ada", "Grace"].map(hello)));
    let replies = channel.bidi_streaming(BIDI_HELLO, names).await.unwrap();
    let replies: Vec<_> = replies.map(|reply| reply.unwrap().message).collect().await;
    assert_eq!(replies.len(), 2);
    assert!(replies[1].starts_with("Hello Grace"), "{replies:?}");
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_path_is_of_the_kind_that_it_is_called_as() {
    let (channel, greeter) = greeted();
    let names = Request::new(tokio_stream::iter(["Ada", "Grace"].map(hello)));
    let path = "/helloworld.Greeter/LotsOfGreetings";
    let reply = channel.client_streaming::<_, crate::support::greeter::HelloReply>(path, names);
    assert!(reply.await.unwrap().message().message.contains("Grace"));
    // One with several responses has none that would be the one.
    let names = Request::new(tokio_stream::iter(["Ada Grace"].map(hello)));
    let path = "/helloworld.Greeter/LotsOfReplies";
    let reply = channel.client_streaming::<_, crate::support::greeter::HelloReply>(path, names);
    assert_eq!(reply.await.unwrap_err().code(), Code::UNIMPLEMENTED);
    let path = "no path";
    let names = Request::new(tokio_stream::iter(["Ada"].map(hello)));
    let refused = channel.bidi_streaming::<_, crate::support::greeter::HelloReply>(path, names);
    assert!(refused.await.unwrap_err().message().contains("`no path` is no method path"));
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_server_that_ends_a_call_early_ends_it_for_who_has_requests_left() {
    const NOTHING: Method<Bytes, Bytes, kind::ClientStreaming> =
        Method::with_codec::<Raw>("/helloworld.Greeter/Nothing");
    let (channel, greeter) = greeted();
    let taken = Arc::<AtomicUsize>::default();
    let counted = taken.clone();
    // Without an end.
    let requests = tokio_stream::iter(std::iter::repeat_with(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Bytes::from_static(&[0; 1_000])
    }));
    let status = channel.client_streaming(NOTHING, Request::new(requests)).await.unwrap_err();
    assert_eq!(status.code(), Code::UNIMPLEMENTED, "{status}");
    let before = taken.load(Ordering::SeqCst);
    tokio::task::yield_now().await;
    assert_eq!(taken.load(Ordering::SeqCst), before);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_responses_of_20_mb_go_both_ways_in_one_task() {
    let (channel, greeter) = greeted();
    let name = "x".repeat(20_000);
    let requests = tokio_stream::iter((0..1_000).map(move |_| hello(&name)));
    let request = Request::new(requests).timeout(Duration::from_secs(60));
    let mut replies = channel.bidi_streaming(BIDI_HELLO, request).await.unwrap();
    let mut count = 0;
    while let Some(reply) = replies.recv().await.unwrap() {
        assert!(reply.message.len() > 20_000);
        count += 1;
    }
    assert_eq!(count, 1_000);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_ends_each_kind_of_call_with_its_error() {
    let greeter = [Greeter::start()];
    let builder = plaintext(target_of(&greeter)).max_send_message_bytes(100);
    let channel = builder.build().unwrap();
    let long = || hello(&"x".repeat(1_000));
    let several = || Request::new(tokio_stream::iter([hello("Ada"), long()]));
    let server = channel.server_streaming(LOTS_OF_REPLIES, Request::new(long())).await.err();
    let client = channel.client_streaming(LOTS_OF_GREETINGS, several()).await.err();
    let mut replies = channel.bidi_streaming(BIDI_HELLO, several()).await.unwrap();
    let both = async {
        loop {
            if let Err(status) = replies.recv().await {
                break Some(status);
            }
        }
    };
    for status in [server, client, both.await] {
        let status = status.unwrap();
        assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED, "{status}");
    }
    drop(replies);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_sender_that_is_dropped_open_cancels_the_call_and_says_so() {
    let (channel, greeter) = greeted();
    let stream = channel.new_stream(LOTS_OF_GREETINGS, CallOptions::new()).await.unwrap();
    let (mut sender, mut receiver) = stream.split();
    sender.send(hello("Ada")).await.unwrap();
    until("the server has it", async || greeter[0].open_calls() == 1).await;
    drop(sender);
    let status = receiver.recv().await.unwrap_err();
    assert_eq!(status.code(), Code::CANCELLED);
    assert!(status.message().contains("dropped before `close_send`"), "{status}");
    until("the server is told", async || greeter[0].open_calls() == 0).await;

    // A closed one goes without a word.
    let stream = channel.new_stream(LOTS_OF_GREETINGS, CallOptions::new()).await.unwrap();
    let (mut sender, mut receiver) = stream.split();
    sender.send(hello("Ada")).await.unwrap();
    sender.close_send();
    drop(sender);
    assert!(receiver.recv().await.unwrap().unwrap().message.contains("Ada"));
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_deadline_says_that_the_requests_were_not_closed() {
    let (channel, greeter) = greeted();
    for closes in [false, true] {
        greeter[0].hold();
        let options = CallOptions::new().timeout(Duration::from_millis(100));
        let mut stream = channel.new_stream(LOTS_OF_GREETINGS, options).await.unwrap();
        stream.send(hello("Ada")).await.unwrap();
        if closes {
            stream.close_send();
        }
        let status = stream.recv().await.unwrap_err();
        assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
        assert_eq!(status.message().contains("were not closed"), !closes, "{status}");
        greeter[0].release();
    }
    close_without_leaks(channel, &greeter).await;
}
