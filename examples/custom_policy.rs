//! A load-balancing policy of your own: all calls of one user go to the same server, and only the
//! users of a server that goes away move.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;

use greeter::{Greeter, SAY_HELLO, ask, target_of};
use switchboard::{
    Address, Channel, Credentials, EndpointShards, LbContext, LbPolicy, LbPolicyBuilder,
    LbPolicyConfig, Pick, PickArgs, PickResult, Picker, ReadyEndpoint, ServiceConfigError, Spread,
    Status, SubchannelId,
};

/// Makes policies from `{"sticky": {"header": "user"}}` in a service config.
struct Builder;

impl LbPolicyBuilder for Builder {
    fn name(&self) -> &'static str {
        "sticky"
    }

    fn parse_config(&self, json: &serde_json::Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        let header = json.get("header").and_then(serde_json::Value::as_str);
        let header = header.ok_or_else(|| ServiceConfigError::new("header", "must be a string"))?;
        Ok(LbPolicyConfig::new(header.to_owned()))
    }

    /// Connections, states and updates are the library's part.
    fn build(&self) -> Box<dyn LbPolicy> {
        Box::new(EndpointShards::new(Sticky { header: String::new() }))
    }
}

struct Sticky {
    header: String,
}

impl Spread for Sticky {
    fn name(&self) -> &'static str {
        "sticky"
    }

    fn configure(&mut self, config: &LbPolicyConfig) {
        self.header = config.get::<String>().cloned().unwrap_or_default();
    }

    fn picker(&mut self, ready: &[ReadyEndpoint<'_>], _: &mut LbContext<'_>) -> Arc<dyn Picker> {
        let server =
            |it: &ReadyEndpoint<'_>| (it.endpoint().addresses()[0].clone(), it.subchannel());
        let servers = ready.iter().map(server).collect();
        Arc::new(StickyPicker { header: self.header.clone(), servers })
    }
}

/// What calls read, on their own tasks and without a lock.
struct StickyPicker {
    header: String,
    servers: Vec<(Address, SubchannelId)>,
}

impl Picker for StickyPicker {
    fn pick(&self, call: &PickArgs<'_>) -> PickResult {
        let Some(user) = call.metadata.get(&self.header) else {
            let text = format!("a call needs the metadata `{}`", self.header);
            return PickResult::Drop(Status::internal(text));
        };
        // Each user ranks the servers in an order of its own; whoever leaves changes nothing else.
        let best = self.servers.iter().max_by_key(|(address, _)| hash(&(user, address)));
        best.map_or(PickResult::Queue, |(_, server)| PickResult::Complete(Pick::new(*server)))
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut servers = [Greeter::start(), Greeter::start(), Greeter::start()];
    let channel = Channel::builder(target_of(&servers))
        .lb_policy(Builder)
        .default_service_config(r#"{"loadBalancingConfig": [{"sticky": {"header": "user"}}]}"#)
        .credentials(Credentials::insecure())
        .build()?;

    // Servers join one by one; when each has been called, all are at work.
    for visitor in 0.. {
        server_of(&channel, &format!("visitor {visitor}")).await?;
        if servers.iter().all(|server| server.received() > 0) {
            break;
        }
    }
    let before = servers_of_users(&channel).await?;
    for server in servers.iter_mut().filter(|server| before[0] == server.address().into()) {
        server.stop_gracefully().await;
    }
    let after = servers_of_users(&channel).await?;
    for (user, (before, after)) in USERS.iter().zip(before.iter().zip(&after)) {
        let verb = if before == after { "stays with" } else { "moves to" };
        println!("{user:7} was with {before} and {verb} {after}");
    }

    channel.close().await;
    Ok(())
}

const USERS: [&str; 6] = ["Ada", "Alan", "Barb", "Edsger", "Grace", "Niklaus"];

/// Which server each user's calls go to; they all go to one.
async fn servers_of_users(channel: &Channel) -> Result<Vec<Address>, Box<dyn std::error::Error>> {
    let mut servers = Vec::new();
    for user in USERS {
        let server = server_of(channel, user).await?;
        for _ in 0..3 {
            assert_eq!(server_of(channel, user).await?, server);
        }
        servers.push(server);
    }
    Ok(servers)
}

async fn server_of(channel: &Channel, user: &str) -> Result<Address, Box<dyn std::error::Error>> {
    let mut request = ask(user);
    request.metadata_mut().insert("user", user)?;
    Ok(channel.invoke(&SAY_HELLO, request).await?.peer().clone())
}
