//! What interceptors see of calls, and make of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use switchboard::{
    Address, Answer, BoxFuture, CallOptions, Channel, ClientStream, Code, EncodedMessage,
    Interceptor, Metadata, Next, OutgoingCall, Response, SecurityLevel, Status, StreamWrapper,
};
use tokio_stream::StreamExt as _;

use crate::support::greeter::{
    BIDI_HELLO, Greeter, HelloReply, HelloRequest, LOTS_OF_REPLIES, SAY_HELLO, ask, hello,
    target_of,
};
use crate::support::{close_without_leaks, plaintext};

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Options of a call that log its end.
    fn at_the_end(&self, who: &'static str) -> CallOptions {
        let log = self.clone();
        CallOptions::new().on_finish(move |result| log.add(ended(who, result)))
    }
}

fn ended(who: &str, result: Result<(), &Status>) -> String {
    format!("{who}: {}", result.map_or_else(|status| status.code().to_string(), |()| "OK".into()))
}

fn greeted(interceptors: impl IntoIterator<Item = Logging>) -> (Channel, [Greeter; 1]) {
    let greeter = [Greeter::start()];
    let mut builder = plaintext(target_of(&greeter));
    for interceptor in interceptors {
        builder = builder.interceptor(interceptor);
    }
    (builder.build().unwrap(), greeter)
}

/// Logs all it sees, under a name.
struct Logging(&'static str, Log);

impl Interceptor for Logging {
    fn before(&self, call: &mut OutgoingCall) -> Result<(), Status> {
        self.1.add(format!("{} before {:?}", self.0, call.cardinality()));
        Ok(())
    }

    fn unary<'a>(
        &'a self,
        call: OutgoingCall,
        message: EncodedMessage,
        next: Next<'a>,
    ) -> Answer<'a, Response<Bytes>> {
        Answer::later(async move {
            let HelloRequest { name } = message.decode().unwrap();
            self.1.add(format!("{} asks for {name}", self.0));
            let answer = next.unary(call, message).await;
            self.1.add(ended(self.0, answer.as_ref().map(drop)));
            answer
        })
    }

    fn stream<'a>(
        &'a self,
        call: OutgoingCall,
        next: Next<'a>,
    ) -> Answer<'a, Arc<dyn ClientStream>> {
        Answer::later(async move {
            let stream = next.stream(call).await?;
            let stream = LoggingStream { stream, who: self.0, log: self.1.clone() };
            Ok(Arc::new(stream) as Arc<dyn ClientStream>)
        })
    }
}

struct LoggingStream {
    stream: Arc<dyn ClientStream>,
    who: &'static str,
    log: Log,
}

impl StreamWrapper for LoggingStream {
    fn inner(&self) -> &dyn ClientStream {
        &*self.stream
    }

    fn send(&self, message: EncodedMessage) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move {
            let HelloRequest { name } = message.decode().unwrap();
            self.log.add(format!("{} sends {name}", self.who));
            self.inner().send(message).await
        })
    }

    fn close_send(&self) {
        self.log.add(format!("{} closes", self.who));
        self.inner().close_send();
    }

    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>> {
        Box::pin(async move {
            let received = self.inner().recv().await;
            match &received {
                Ok(Some(_)) => self.log.add(format!("{} receives", self.who)),
                Ok(None) => self.log.add(ended(self.who, Ok(()))),
                Err(status) => self.log.add(ended(self.who, Err(status))),
            }
            received
        })
    }
}

#[tokio::test]
async fn the_first_interceptor_is_the_outermost() {
    let log = Log::default();
    let (channel, greeter) =
        greeted([Logging("outer", log.clone()), Logging("inner", log.clone())]);
    let request = ask("Ada").options(log.at_the_end("application"));
    channel.invoke(&SAY_HELLO, request).await.unwrap();
    assert_eq!(
        log.take(),
        [
            "outer before Unary",
            "outer asks for Ada",
            "inner before Unary",
            "inner asks for Ada",
            "inner: OK",
            "outer: OK",
            "application: OK"
        ]
    );
    let status = channel.invoke(&SAY_HELLO, ask("fail:7:no")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PERMISSION_DENIED, "no"));
    assert_eq!(log.take()[4..], ["inner: PERMISSION_DENIED", "outer: PERMISSION_DENIED"]);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn the_messages_of_a_stream_pass_through_all_interceptors() {
    let log = Log::default();
    let (channel, greeter) = greeted([Logging("a", log.clone()), Logging("b", log.clone())]);
    let options = log.at_the_end("application");
    let mut stream = channel.new_stream(&BIDI_HELLO, options).await.unwrap();
    assert_eq!(log.take(), ["a before BidiStreaming", "b before BidiStreaming"]);
    stream.send(hello("Ada")).await.unwrap();
    assert_eq!(log.take(), ["a sends Ada", "b sends Ada"]);
    // As a stream of futures' own kind, and by hand.
    let reply = stream.next().await.unwrap().unwrap();
    assert!(reply.message.starts_with("Hello Ada"), "{}", reply.message);
    assert!(stream.header().await.is_ok());
    assert_eq!(stream.peer().unwrap().to_string(), greeter[0].address().to_string());
    assert_eq!(stream.security_level(), Some(SecurityLevel::None));
    assert_eq!(log.take(), ["b receives", "a receives"]);
    stream.close_send();
    assert!(stream.recv().await.unwrap().is_none());
    assert_eq!(log.take(), ["a closes", "b closes", "b: OK", "a: OK", "application: OK"]);
    assert!(stream.trailer().is_some());
    assert!(stream.next().await.is_none());
    drop(stream);
    assert_eq!(log.take(), ["b: OK", "a: OK"], "the application has been told already");
    close_without_leaks(channel, &greeter).await;
}

/// Changes everything that can be changed.
struct Changing;

impl Interceptor for Changing {
    fn before(&self, call: &mut OutgoingCall) -> Result<(), Status> {
        call.metadata_mut().insert("echo", "from below").unwrap();
        Ok(())
    }

    fn unary<'a>(
        &'a self,
        call: OutgoingCall,
        message: EncodedMessage,
        next: Next<'a>,
    ) -> Answer<'a, Response<Bytes>> {
        let HelloRequest { name } = message.decode().unwrap();
        let message = EncodedMessage::of(&hello(&name.replace("Ada", "ADA")));
        Answer::later(async move {
            let mut answer = next.unary(call, message).await.map_err(|status| {
                Status::new(Code::ABORTED, format!("changed: {}", status.message()))
            })?;
            answer.trailers_mut().insert("seen", "yes").unwrap();
            answer.try_map(|message| {
                let mut reply: HelloReply = prost::Message::decode(message).unwrap();
                reply.message.push('!');
                Ok(prost::Message::encode_to_vec(&reply).into())
            })
        })
    }
}

#[tokio::test]
async fn an_interceptor_may_change_all_of_a_call() {
    let greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter)).interceptor(Changing).build().unwrap();
    let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert!(reply.message().message.starts_with("Hello ADA"), "{:?}", reply.message());
    assert!(reply.message().message.ends_with('!'), "{:?}", reply.message());
    assert_eq!(reply.metadata().get("echo"), Some("from below"));
    assert_eq!(reply.trailers().get("seen"), Some("yes"));
    let status = channel.invoke(&SAY_HELLO, ask("fail:7:no")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ABORTED, "changed: no"));
    close_without_leaks(channel, &greeter).await;
}

/// Gives calls options, by their method.
struct Hurried;

impl Interceptor for Hurried {
    fn before(&self, call: &mut OutgoingCall) -> Result<(), Status> {
        assert!(call.deadline().is_some());
        let options = std::mem::take(call.options_mut());
        *call.options_mut() = options.timeout(Duration::from_millis(20));
        Ok(())
    }
}

#[tokio::test]
async fn the_options_that_an_interceptor_gives_are_the_calls() {
    let greeter = [Greeter::start()];
    greeter[0].hold();
    let channel = plaintext(target_of(&greeter)).interceptor(Hurried).build().unwrap();
    let request = ask("Ada").timeout(Duration::from_secs(1_000));
    let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    greeter[0].release();
    close_without_leaks(channel, &greeter).await;
}

/// Answers without a server, or refuses.
struct Answering;

impl Interceptor for Answering {
    fn before(&self, call: &mut OutgoingCall) -> Result<(), Status> {
        match call.metadata().get("refuse") {
            Some(why) => Err(Status::new(Code::DATA_LOSS, why)),
            None => Ok(()),
        }
    }

    fn unary<'a>(
        &'a self,
        _: OutgoingCall,
        _: EncodedMessage,
        _: Next<'a>,
    ) -> Answer<'a, Response<Bytes>> {
        let reply = HelloReply { message: "Hello from below".to_owned() };
        let peer = Address::Name("nowhere".into());
        Answer::of(Ok(Response::new(prost::Message::encode_to_vec(&reply).into(), peer)))
    }

    fn stream<'a>(&'a self, _: OutgoingCall, _: Next<'a>) -> Answer<'a, Arc<dyn ClientStream>> {
        Answer::of(Ok(Arc::new(Repeating) as _))
    }
}

/// A stream of one greeting.
struct Repeating;

impl ClientStream for Repeating {
    fn send(&self, _: EncodedMessage) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async { Ok(()) })
    }

    fn close_send(&self) {}

    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>> {
        Box::pin(async { Err(Status::new(Code::OUT_OF_RANGE, "that was all")) })
    }

    fn header(&self) -> BoxFuture<'_, Result<Metadata, Status>> {
        Box::pin(async { Ok(Metadata::new()) })
    }

    fn trailer(&self) -> Option<Metadata> {
        None
    }

    fn peer(&self) -> Option<Address> {
        None
    }

    fn security_level(&self) -> Option<SecurityLevel> {
        None
    }

    fn cancel(&self) {}
}

#[tokio::test]
async fn an_interceptor_may_answer_in_place_of_a_server() {
    // Nobody listens there, and nobody is asked.
    let channel = plaintext("ipv4:127.0.0.1:1").interceptor(Answering).build().unwrap();
    let log = Log::default();
    let request = ask("Ada").options(log.at_the_end("one"));
    let reply = channel.invoke(&SAY_HELLO, request).await.unwrap();
    assert_eq!(reply.message().message, "Hello from below");
    assert_eq!(reply.peer().to_string(), "nowhere");
    let mut stream = channel.new_stream(&BIDI_HELLO, log.at_the_end("two")).await.unwrap();
    let status = stream.recv().await.unwrap_err();
    assert_eq!(status.code(), Code::OUT_OF_RANGE);

    let mut request = ask("Ada").options(log.at_the_end("three"));
    request.metadata_mut().insert("refuse", "not today").unwrap();
    let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DATA_LOSS, "not today"));
    let mut options = log.at_the_end("four");
    options.metadata_mut().insert("refuse", "not today").unwrap();
    let status = channel.new_stream(&BIDI_HELLO, options).await.unwrap_err();
    assert_eq!(status.code(), Code::DATA_LOSS);
    assert_eq!(log.take(), ["one: OK", "two: OUT_OF_RANGE", "three: DATA_LOSS", "four: DATA_LOSS"]);
    channel.close().await;
}

/// Makes calls again that fail, and has every one of its calls logged.
struct Again(Log);

impl Interceptor for Again {
    fn unary<'a>(
        &'a self,
        call: OutgoingCall,
        message: EncodedMessage,
        next: Next<'a>,
    ) -> Answer<'a, Response<Bytes>> {
        let once = move || {
            let mut call = call.clone();
            let log = self.0.clone();
            let options = std::mem::take(call.options_mut());
            *call.options_mut() = options.on_finish(move |result| log.add(ended("try", result)));
            next.unary(call, message.clone())
        };
        Answer::later(async move {
            match once().await {
                Err(_) => once().await,
                answer => answer,
            }
        })
    }
}

#[tokio::test]
async fn an_interceptor_may_make_a_call_again_and_each_end_is_told_once() {
    let log = Log::default();
    let greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter))
        .interceptor(Again(log.clone()))
        .interceptor(Logging("inner", log.clone()))
        .build()
        .unwrap();
    let request = ask("fail:14:no").options(log.at_the_end("application"));
    channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    let one = ["inner before Unary", "inner asks for fail:14:no", "inner: UNAVAILABLE"];
    let mut all = Vec::new();
    for _ in 0..2 {
        all.extend(one);
        all.push("try: UNAVAILABLE");
    }
    all.push("application: UNAVAILABLE");
    assert_eq!(log.take(), all);
    assert_eq!(greeter[0].received(), 2);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn the_end_of_a_call_is_told_once_however_it_ends() {
    let log = Log::default();
    let (channel, greeter) = greeted([]);
    // Before any attempt.
    let request = ask("Ada").options(log.at_the_end("no path"));
    channel.invoke::<HelloRequest, HelloReply>("nothing", request).await.unwrap_err();
    let stream = channel.new_stream::<HelloRequest, HelloReply>("no", log.at_the_end("no stream"));
    stream.await.unwrap_err();
    let request = ask("Ada").options(log.at_the_end("too late").timeout(Duration::ZERO));
    channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    let expected = ["no path: INTERNAL", "no stream: INTERNAL", "too late: DEADLINE_EXCEEDED"];
    assert_eq!(log.take(), expected);
    // By the application.
    greeter[0].hold();
    let request = ask("Ada").options(log.at_the_end("dropped"));
    let call = channel.invoke(&SAY_HELLO, request);
    assert!(tokio::time::timeout(Duration::from_millis(5), call).await.is_err());
    // That one was never made.
    drop(channel.invoke(&SAY_HELLO, ask("Ada").options(log.at_the_end("never polled"))));
    greeter[0].release();
    let options = log.at_the_end("cancelled");
    let stream = channel.new_stream(&LOTS_OF_REPLIES, options).await.unwrap();
    stream.cancel();
    stream.cancel();
    drop(stream);
    let options = log.at_the_end("left");
    drop(channel.new_stream(&LOTS_OF_REPLIES, options).await.unwrap());
    // By the server; two hooks, and options that serve twice.
    let options = log.at_the_end("twice");
    let more = log.clone();
    let options = options.on_finish(move |result| more.add(ended("again", result)));
    for _ in 0..2 {
        channel.invoke(&SAY_HELLO, ask("Ada").options(options.clone())).await.unwrap();
    }
    assert_eq!(
        log.take(),
        [
            "dropped: CANCELLED",
            "cancelled: CANCELLED",
            "left: CANCELLED",
            "twice: OK",
            "again: OK",
            "twice: OK",
            "again: OK"
        ]
    );
    close_without_leaks(channel, &greeter).await;
}
