//! What a service may put onto its channel: with all of it, the cases must go as they do without.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use switchboard::{
    Answer, BoxFuture, ChannelBuilder, ClientStream, EncodedMessage, Interceptor, Next,
    OutgoingCall, Response, Status, StreamWrapper,
};

/// `builder` with a retry policy, default deadlines and an interceptor.
pub(crate) fn of(builder: ChannelBuilder) -> ChannelBuilder {
    builder
        .default_service_config(RETRIES)
        .default_timeout(DEADLINE)
        .default_stream_timeout(DEADLINE)
        .interceptor(Through)
}

/// Has a hand in all calls, and changes nothing.
struct Through;

impl Interceptor for Through {
    fn unary<'a>(
        &'a self,
        call: OutgoingCall,
        message: EncodedMessage,
        next: Next<'a>,
    ) -> Answer<'a, Response<Bytes>> {
        Answer::later(async move { next.unary(call, message).await })
    }

    fn stream<'a>(
        &'a self,
        call: OutgoingCall,
        next: Next<'a>,
    ) -> Answer<'a, Arc<dyn ClientStream>> {
        Answer::later(async move {
            let stream = next.stream(call).await?;
            Ok(Arc::new(Forwarding(stream)) as Arc<dyn ClientStream>)
        })
    }
}

struct Forwarding(Arc<dyn ClientStream>);

impl StreamWrapper for Forwarding {
    fn inner(&self) -> &dyn ClientStream {
        &*self.0
    }

    fn send(&self, message: EncodedMessage) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move { self.inner().send(message).await })
    }

    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>> {
        Box::pin(async move { self.inner().recv().await })
    }
}

/// Far beyond what a case takes.
const DEADLINE: Duration = Duration::from_secs(30);

const RETRIES: &str = r#"{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":4,
    "initialBackoff":"0.05s","maxBackoff":"1s","backoffMultiplier":2,
    "retryableStatusCodes":["UNAVAILABLE"]}}]}"#;
