//! The client of this project, with everything on: resolver, balancer, deadline, replay, counters.

use std::hint::black_box;

use anyhow::{Context, Result};
use switchboard::{
    CallOptions, Channel, ChannelBuilder, ConnectivityState, Credentials, Interceptor, Method,
    OutgoingCall, Request, Status, Streaming, TlsConfig, kind,
};
use tokio_stream::Stream;

use super::{CALL_TIMEOUT, CONNECTION_WINDOW, Client, Download, PingPong, STREAM_WINDOW, Target};
use crate::proto::{DOWN, Req, Resp, STREAM, UNARY, UP};
use crate::secure;

const UNARY_METHOD: Method<Req, Resp> = Method::unary(UNARY);
const STREAM_METHOD: Method<Req, Resp, kind::BidiStreaming> = Method::bidi_streaming(STREAM);
const DOWN_METHOD: Method<Req, Resp, kind::ServerStreaming> = Method::server_streaming(DOWN);
const UP_METHOD: Method<Req, Resp, kind::ClientStreaming> = Method::client_streaming(UP);

/// A channel to one server.
#[derive(Clone)]
pub(crate) struct Switchboard(Channel);

impl Client for Switchboard {
    type PingPong = Streaming<Req, Resp>;
    type Download = Streaming<Req, Resp>;

    async fn connect(server: &Target) -> Result<Self> {
        connected(builder(server)?).await.map(Self)
    }

    async fn unary(&mut self, request: Req) -> Result<Resp> {
        let request = Request::new(request).timeout(CALL_TIMEOUT);
        Ok(self.0.invoke(&UNARY_METHOD, request).await?.into_message())
    }

    async fn ping_pong(&mut self) -> Result<Self::PingPong> {
        let options = CallOptions::new().timeout(CALL_TIMEOUT);
        Ok(self.0.new_stream(&STREAM_METHOD, options).await?)
    }

    async fn server_stream(&mut self, request: Req) -> Result<Self::Download> {
        let options = CallOptions::new().timeout(CALL_TIMEOUT);
        let mut stream = self.0.new_stream(&DOWN_METHOD, options).await?;
        stream.send(request).await?;
        Ok(stream)
    }

    async fn client_stream(
        &mut self,
        requests: impl Stream<Item = Req> + Send + 'static,
    ) -> Result<Resp> {
        let options = CallOptions::new().timeout(CALL_TIMEOUT);
        let mut stream = self.0.new_stream(&UP_METHOD, options).await?;
        stream.send_all(requests).await?;
        stream.recv().await?.context("no response")
    }
}

/// A channel with retries, a default deadline and an interceptor, and with health checks where the
/// server is asked: tonic's has no health service, says so once, and counts as healthy from then on.
#[derive(Clone)]
pub(crate) struct Equipped(Channel);

impl Client for Equipped {
    type PingPong = Streaming<Req, Resp>;
    type Download = Streaming<Req, Resp>;

    async fn connect(server: &Target) -> Result<Self> {
        let builder = builder(server)?
            .default_service_config(EQUIPPED)
            .default_timeout(CALL_TIMEOUT)
            .interceptor(Naming);
        // The null server answers everything as it does calls, questions of health included.
        let builder = if server.has_health { builder } else { builder.disable_health_check() };
        connected(builder).await.map(Self)
    }

    async fn unary(&mut self, request: Req) -> Result<Resp> {
        Ok(self.0.invoke(&UNARY_METHOD, Request::new(request)).await?.into_message())
    }

    async fn ping_pong(&mut self) -> Result<Self::PingPong> {
        Switchboard(self.0.clone()).ping_pong().await
    }

    async fn server_stream(&mut self, request: Req) -> Result<Self::Download> {
        Switchboard(self.0.clone()).server_stream(request).await
    }

    async fn client_stream(
        &mut self,
        requests: impl Stream<Item = Req> + Send + 'static,
    ) -> Result<Resp> {
        Switchboard(self.0.clone()).client_stream(requests).await
    }
}

/// Has a look at each call, as one that adds metadata has.
struct Naming;

impl Interceptor for Naming {
    fn before(&self, call: &mut OutgoingCall) -> Result<(), Status> {
        black_box(call.metadata_mut());
        Ok(())
    }
}

fn builder(server: &Target) -> Result<ChannelBuilder> {
    let credentials = match &server.tls {
        None => Credentials::insecure(),
        Some(folder) => {
            let config = TlsConfig::new().roots_file(secure::roots(folder))?;
            Credentials::tls_with(config.server_name(secure::SERVER_NAME))
        }
    };
    Ok(Channel::builder(format!("ipv4:{}", server.address))
        .credentials(credentials)
        .default_service_config(r#"{"loadBalancingConfig":[{"round_robin":{}}]}"#)
        .receive_windows(STREAM_WINDOW, CONNECTION_WINDOW))
}

async fn connected(builder: ChannelBuilder) -> Result<Channel> {
    let channel = builder.build()?;
    channel.connect();
    let mut state = channel.state();
    while state != ConnectivityState::Ready {
        state = channel.wait_for_state_change(state).await;
    }
    Ok(channel)
}

const EQUIPPED: &str = r#"{"loadBalancingConfig":[{"round_robin":{}}],
    "healthCheckConfig":{"serviceName":""},
    "methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":4,"initialBackoff":"0.1s",
    "maxBackoff":"1s","backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}]}"#;

impl PingPong for Streaming<Req, Resp> {
    async fn round_trip(&mut self, request: Req) -> Result<Resp> {
        self.send(request).await?;
        self.recv().await?.context("the stream ended")
    }
}

impl Download for Streaming<Req, Resp> {
    async fn message(&mut self) -> Result<Option<Resp>> {
        Ok(self.recv().await?)
    }
}
