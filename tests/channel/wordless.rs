//! Parts of the application that fail and do not say why, or fail with a code that is not theirs.

use std::future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use switchboard::memory::{MemoryConnector, pipe};
use switchboard::{
    AccessToken, Address, Answer, BoxFuture, CallConfig, CallContext, CallCredentials, CallOptions,
    Channel, ChannelBuilder, ClientStream, Code, Codec, CodecError, Connect, EncodedMessage,
    Endpoint, EndpointShards, Interceptor, Io, LbContext, LbPolicy, LbPolicyBuilder,
    LbPolicyConfig, ManualResolver, Metadata, Method, Next, OAuth2, OutgoingCall, Pick, PickArgs,
    PickResult, Picker, ReadyEndpoint, Resolution, ResolveError, Response, SecurityLevel,
    SelectArgs, ServiceConfigError, Spread, Status, StreamWrapper, SubchannelId, TokenSource,
};

use crate::support::greeter::{BIDI_HELLO, SAY_HELLO, ask};
use crate::support::mini::answer_all;
use crate::support::plaintext;

/// A part of the application that gives a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Before,
    BeforeAsClosure,
    InterceptorAtOnce,
    InterceptorLater,
    StreamOfInterceptor,
    Selector,
    PickerFails,
    PickerDrops,
    Credentials,
    TokenSource,
}

use Part::*;

impl Part {
    const ALL: [Self; 10] = [
        Before,
        BeforeAsClosure,
        InterceptorAtOnce,
        InterceptorLater,
        StreamOfInterceptor,
        Selector,
        PickerFails,
        PickerDrops,
        Credentials,
        TokenSource,
    ];

    /// How a message names it.
    fn name(self) -> &'static str {
        match self {
            Before | BeforeAsClosure | InterceptorAtOnce | InterceptorLater => "an interceptor",
            StreamOfInterceptor => "the stream of an interceptor",
            Selector => "the config selector",
            PickerFails | PickerDrops => "the load-balancing policy",
            Credentials => "the call's credentials",
            TokenSource => "the token source",
        }
    }

    /// Whether it may speak for the server.
    fn is_above_the_channel(self) -> bool {
        self.name().contains("interceptor")
    }
}

/// `Part` gives this status.
#[derive(Clone)]
struct Gives(Part, Status);

impl Gives {
    fn of(&self, part: Part) -> Result<(), Status> {
        if self.0 == part { Err(self.1.clone()) } else { Ok(()) }
    }

    fn builder(&self) -> ChannelBuilder {
        let manual = ManualResolver::new();
        let endpoint = Endpoint::from(Address::Name("server".into()));
        let selector = self.clone();
        let select = move |_: &SelectArgs<'_>| {
            selector.of(Selector)?;
            Ok(CallConfig::new(switchboard::MethodConfig::new()))
        };
        manual.set_resolution(Resolution::new([endpoint]).with_config_selector(Arc::new(select)));
        let mut credentials = switchboard::Credentials::insecure();
        if self.0 == Credentials {
            credentials = credentials.with_call_credentials(self.clone());
        }
        if self.0 == TokenSource {
            credentials = credentials.with_call_credentials(
                OAuth2::new(self.clone()).min_security_level(SecurityLevel::None),
            );
        }
        let closure = self.clone();
        plaintext("manual:server")
            .credentials(credentials)
            .resolver("manual", manual)
            .connector(server())
            .lb_policy(self.clone())
            .default_service_config(r#"{"loadBalancingConfig":[{"gives":{}}]}"#)
            .interceptor(self.clone())
            .interceptor(move |_: &mut OutgoingCall| closure.of(BeforeAsClosure))
    }
}

/// A server that answers everything.
fn server() -> MemoryConnector {
    let (connector, mut listener) = pipe();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(answer_all(stream, |_| ()));
        }
    });
    connector
}

impl Interceptor for Gives {
    fn before(&self, _: &mut OutgoingCall) -> Result<(), Status> {
        self.of(Before)
    }

    fn unary<'a>(
        &'a self,
        call: OutgoingCall,
        message: EncodedMessage,
        next: Next<'a>,
    ) -> Answer<'a, Response<Bytes>> {
        match self.0 {
            InterceptorAtOnce => Answer::of(Err(self.1.clone())),
            InterceptorLater => Answer::later(future::ready(Err(self.1.clone()))),
            _ => next.unary(call, message),
        }
    }

    fn stream<'a>(
        &'a self,
        call: OutgoingCall,
        next: Next<'a>,
    ) -> Answer<'a, Arc<dyn ClientStream>> {
        match self.0 {
            InterceptorAtOnce => Answer::of(Err(self.1.clone())),
            InterceptorLater => Answer::later(future::ready(Err(self.1.clone()))),
            StreamOfInterceptor => Answer::later(async move {
                let stream = next.stream(call).await?;
                Ok(Arc::new(Given(stream, self.1.clone())) as Arc<dyn ClientStream>)
            }),
            _ => next.stream(call),
        }
    }
}

struct Given(Arc<dyn ClientStream>, Status);

impl StreamWrapper for Given {
    fn inner(&self) -> &dyn ClientStream {
        &*self.0
    }

    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>> {
        Box::pin(future::ready(Err(self.1.clone())))
    }
}

impl LbPolicyBuilder for Gives {
    fn name(&self) -> &'static str {
        "gives"
    }

    fn parse_config(&self, _: &serde_json::Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        Ok(LbPolicyConfig::new(()))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        Box::new(EndpointShards::new(self.clone()))
    }
}

impl Spread for Gives {
    fn name(&self) -> &'static str {
        "gives"
    }

    fn picker(&mut self, ready: &[ReadyEndpoint<'_>], _: &mut LbContext<'_>) -> Arc<dyn Picker> {
        Arc::new(GivingPicker(self.clone(), ready[0].subchannel()))
    }
}

struct GivingPicker(Gives, SubchannelId);

impl Picker for GivingPicker {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        match self.0.0 {
            PickerFails => PickResult::Fail(self.0.1.clone()),
            PickerDrops => PickResult::Drop(self.0.1.clone()),
            _ => PickResult::Complete(Pick::new(self.1)),
        }
    }
}

impl CallCredentials for Gives {
    fn metadata<'a>(&'a self, _: &'a CallContext<'_>) -> BoxFuture<'a, Result<Metadata, Status>> {
        Box::pin(future::ready(self.of(Credentials).map(|()| Metadata::new())))
    }

    fn min_security_level(&self) -> SecurityLevel {
        SecurityLevel::None
    }
}

impl TokenSource for Gives {
    fn fetch(&self) -> BoxFuture<'_, Result<AccessToken, Status>> {
        Box::pin(future::ready(Err(self.1.clone())))
    }
}

async fn unary(channel: &Channel) -> Result<(), Status> {
    channel.invoke(&SAY_HELLO, ask("Ada").timeout(LONG)).await.map(drop)
}

async fn stream(channel: &Channel) -> Result<(), Status> {
    let options = CallOptions::new().timeout(LONG);
    let mut stream = channel.new_stream(&BIDI_HELLO, options).await?;
    stream.close_send();
    stream.recv().await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_part_that_fails_without_a_message_or_with_ok_is_named_by_the_status() {
    let codes = [Code::OK, Code::NOT_FOUND, Code::UNAVAILABLE, Code::from_number(99)];
    for part in Part::ALL {
        for code in codes {
            for text in ["", "why"] {
                let channel = Gives(part, Status::new(code, text)).builder().build().unwrap();
                let ended = if part == StreamOfInterceptor {
                    vec![stream(&channel).await]
                } else {
                    vec![unary(&channel).await, stream(&channel).await]
                };
                for ended in ended {
                    let status = ended.unwrap_err();
                    let may = part.is_above_the_channel() || code != Code::NOT_FOUND;
                    let is_kept = code != Code::OK && may;
                    let expected = if is_kept { code } else { Code::INTERNAL };
                    assert_eq!(status.code(), expected, "{part:?} {code} {text}: {status}");
                    if !is_kept || text.is_empty() {
                        let message = status.message();
                        assert!(message.contains(part.name()), "{part:?} {code}: {status}");
                        assert!(message.contains(&format!("failed with {code}")), "{status}");
                    }
                    assert!(status.message().contains(text), "{part:?} {code}: {status}");
                }
                channel.close().await;
            }
        }
    }
}

struct Refuses;

impl Connect for Refuses {
    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "");
        Box::pin(future::ready(Err(refused)))
    }
}

enum Wordless<const DECODES: bool> {}

impl<const DECODES: bool> Codec for Wordless<DECODES> {
    type Encode = Bytes;
    type Decode = Bytes;

    fn encode(_: &Bytes, _: &mut BytesMut) -> Result<(), CodecError> {
        if DECODES { Ok(()) } else { Err(CodecError::new("")) }
    }

    fn decode(_: Bytes) -> Result<Bytes, CodecError> {
        Err(CodecError::new(" "))
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_without_a_text_is_told_by_its_kind_or_by_its_part() {
    const PATH: &str = "/helloworld.Greeter/SayHello";
    const ENCODES: Method<Bytes, Bytes> = Method::with_codec::<Wordless<false>>(PATH);
    const DECODES: Method<Bytes, Bytes> = Method::with_codec::<Wordless<true>>(PATH);
    let refused = plaintext("passthrough:server").connector(Refuses).build().unwrap();
    let status = unary(&refused).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert!(status.message().ends_with("server: connection refused"), "{status}");

    let manual = ManualResolver::new();
    manual.fail(ResolveError::new(""));
    let lost = plaintext("manual:server").resolver("manual", manual).build().unwrap();
    let status = unary(&lost).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert!(status.message().ends_with("the resolver gave no reason"), "{status}");

    let channel = plaintext("passthrough:server").connector(server()).build().unwrap();
    for method in [&ENCODES, &DECODES] {
        let request = switchboard::Request::new(Bytes::new());
        let status = channel.invoke(method, request).await.unwrap_err();
        assert_eq!(status.code(), Code::INTERNAL);
        assert!(status.message().ends_with("coded: the codec gave no reason"), "{status}");
    }
}

const LONG: Duration = Duration::from_secs(20);
