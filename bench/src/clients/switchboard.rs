//! The client of this project, with everything on: resolver, balancer, deadline, replay, counters.

use anyhow::{Context, Result};
use switchboard::{
    CallOptions, Channel, ConnectivityState, Credentials, Method, Request, Streaming, TlsConfig,
};

use super::{CALL_TIMEOUT, CONNECTION_WINDOW, Client, Download, PingPong, STREAM_WINDOW, Target};
use crate::proto::{DOWN, Req, Resp, STREAM, UNARY};
use crate::secure;

const UNARY_METHOD: Method<Req, Resp> = Method::unary(UNARY);
const STREAM_METHOD: Method<Req, Resp> = Method::bidi_streaming(STREAM);
const DOWN_METHOD: Method<Req, Resp> = Method::server_streaming(DOWN);

/// A channel to one server.
#[derive(Clone)]
pub(crate) struct Switchboard(Channel);

impl Client for Switchboard {
    type PingPong = Streaming<Req, Resp>;
    type Download = Streaming<Req, Resp>;

    async fn connect(server: &Target) -> Result<Self> {
        let credentials = match &server.tls {
            None => Credentials::insecure(),
            Some(folder) => {
                let config = TlsConfig::new().roots_file(secure::roots(folder))?;
                Credentials::tls_with(config.server_name(secure::SERVER_NAME))
            }
        };
        let channel = Channel::builder(format!("ipv4:{}", server.address))
            .credentials(credentials)
            .default_service_config(r#"{"loadBalancingConfig":[{"round_robin":{}}]}"#)
            .receive_windows(STREAM_WINDOW, CONNECTION_WINDOW)
            .build()?;
        channel.connect();
        let mut state = channel.state();
        while state != ConnectivityState::Ready {
            state = channel.wait_for_state_change(state).await;
        }
        Ok(Self(channel))
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
}

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
