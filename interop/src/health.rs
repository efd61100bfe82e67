//! `health`, which is no official case: the server's own health service says what becomes of calls
//! (A17). The server changes what it says at a call with `set-health` in its metadata, which
//! `interop/go/health` understands.

use std::time::Duration;

use anyhow::{Context as _, Error, Result, ensure};
use switchboard::{Channel, Code, Request, Status};
use tokio::time::sleep;

use crate::flags::Flags;
use crate::proto::{EMPTY_CALL, Empty};

pub(crate) async fn run(flags: &Flags) -> Result<()> {
    // This one asks nobody, and so can always tell the server what to say.
    let control = flags.channel_builder().map_err(Error::msg)?;
    let config = checking(SERVICE);
    let control = control.default_service_config(config.clone()).disable_health_check();
    let control = control.build().context("building the channel that controls the server")?;
    say(&control, SERVICE, "SERVING").await?;
    let channel = flags.channel_builder().map_err(Error::msg)?;
    let channel = channel.default_service_config(config).build().context("building a channel")?;

    call(&channel, true).await.context("expected a call to succeed while the server serves")?;
    for _ in 0..ROUNDS {
        say(&control, SERVICE, "NOT_SERVING").await?;
        fails(&channel, SERVICE, "NOT_SERVING").await?;
        say(&control, SERVICE, "SERVING").await?;
        call(&channel, true).await.context("expected a call to succeed once the server serves")?;
    }
    channel.close().await;

    let channel = flags.channel_builder().map_err(Error::msg)?;
    let channel = channel.default_service_config(checking(NOBODYS)).build()?;
    fails(&channel, NOBODYS, "SERVICE_UNKNOWN").await?;
    channel.close().await;

    let channel = flags.channel_builder().map_err(Error::msg)?;
    let channel = channel.default_service_config(checking("")).build()?;
    call(&channel, true)
        .await
        .context("expected a call to succeed: the server as a whole serves")?;
    channel.close().await;
    control.close().await;
    Ok(())
}

/// Calls until one fails for what the server says of `service`. A host may have an address that the
/// server does not listen at, and calls that fail do so with the error of each address in turn.
async fn fails(channel: &Channel, service: &str, says: &str) -> Result<()> {
    let expected = format!("service `{service}` says {says}");
    loop {
        match call(channel, false).await {
            Err(status) if status.message().contains(&expected) => {
                let is_unavailable = status.code() == Code::UNAVAILABLE;
                ensure!(is_unavailable, "expected UNAVAILABLE, got {status}");
                return Ok(());
            }
            // What the server says now may be on its way.
            Ok(()) | Err(_) => sleep(BETWEEN_CALLS).await,
        }
    }
}

async fn call(channel: &Channel, wait_for_ready: bool) -> Result<(), Status> {
    let request = Request::new(Empty {}).wait_for_ready(wait_for_ready);
    channel.invoke(&EMPTY_CALL, request).await.map(drop)
}

async fn say(control: &Channel, service: &str, status: &str) -> Result<()> {
    let mut request = Request::new(Empty {}).wait_for_ready(true);
    request.metadata_mut().insert("set-health", format!("{service}={status}"))?;
    let outcome = control.invoke(&EMPTY_CALL, request).await;
    outcome.map(drop).context("expected the server to take a new status")
}

fn checking(service: &str) -> String {
    format!(
        r#"{{"loadBalancingConfig": [{{"round_robin": {{}}}}],
            "healthCheckConfig": {{"serviceName": "{service}"}}}}"#
    )
}

const SERVICE: &str = "grpc.testing.TestService";

/// One that the server knows nothing of.
const NOBODYS: &str = "nobody.Service";

/// Back and forth so often.
const ROUNDS: u32 = 3;

/// Calls come soon enough one after the other, and not as fast as a processor can.
const BETWEEN_CALLS: Duration = Duration::from_millis(5);
