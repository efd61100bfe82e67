//! Stands for measuring picks and events; for the benchmarks of this package alone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::pick::{Step, look};
use super::{CallHead, Defaults, Events, SlotTable, Snapshot, SnapshotCell, SubchannelSlot};
use crate::observe::CallEvent;
use crate::policy::lb::{
    self, LbContext, LbEffect, LbEvent, LbRegistry, LbUpdate, SubchannelState, Subchannels,
};
use crate::policy::service_config::ServiceConfig;
use crate::transport::{AllCallCredentials, Connection, ConnectionOptions, Security, dial, memory};
use crate::types::Dice;
use crate::types::{
    Address, Authority, ConnectivityState, Endpoint, Foreign, Generation, Metadata, MethodPath,
    SubchannelId,
};

/// A snapshot of a `round_robin` over so many READY endpoints, each with a slot of its own, and
/// all with one connection.
pub struct PickRig {
    cell: SnapshotCell,
    call: CallHead,
    /// Keeps the connection.
    _runtime: tokio::runtime::Runtime,
}

impl PickRig {
    /// Fails where the operating system gives no runtime.
    pub fn new(endpoints: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connection = runtime.block_on(connection())?;
        let config = ServiceConfig::parse(
            r#"{"loadBalancingConfig":[{"round_robin":{}}]}"#,
            &LbRegistry::default(),
        );
        let config = Arc::new(config.map_err(io::Error::other)?);
        let mut slots = Vec::new();
        for nth in 0..endpoints {
            let slot = SubchannelSlot::new(SubchannelId::new(nth as u32, nth as u32 + 1));
            drop(slot.fill(connection.clone()));
            slots.push(Some(Arc::new(slot)));
        }
        let snapshot = Snapshot {
            generation: Generation::default(),
            connectivity: ConnectivityState::Ready,
            is_resolved: true,
            picker: picker(&config, endpoints),
            slots: SlotTable::new(slots),
            config,
        };
        let call = CallHead {
            path: MethodPath::parse("/helloworld.Greeter/SayHello").map_err(io::Error::other)?,
            content_type: "application/grpc",
            metadata: Metadata::new(),
            begun: Instant::now(),
            deadline: None,
            wait_for_ready: None,
            receive_bytes_max: None,
            send_bytes_max: None,
            defaults: Defaults {
                timeout: None,
                wait_for_ready: false,
                receive_bytes_max: 0,
                send_bytes_max: 0,
            },
            compression: None,
            extras: None,
            authority: None,
            credentials: AllCallCredentials::default(),
            events: Events::default(),
        };
        Ok(Self { cell: SnapshotCell::new(snapshot), call, _runtime: runtime })
    }

    /// One pick as a call does it: loads the snapshot, asks the picker, takes the connection from
    /// the slot. Says whether there was one.
    pub fn pick(&self) -> bool {
        matches!(look(&self.cell.load(), &self.call, &mut None), Step::Go(_))
    }
}

/// A call that nobody observes.
#[derive(Default)]
pub struct EventRig(Events);

impl EventRig {
    /// One call.
    pub fn new() -> Self {
        Self::default()
    }

    /// An event of it.
    pub fn tell(&self) {
        self.0.tell(|| CallEvent::RequestsEnded);
    }
}

/// The picker that the policy makes of so many READY endpoints.
fn picker(config: &ServiceConfig, endpoints: usize) -> Arc<dyn lb::Picker> {
    let mut numbers = Numbers(0);
    let mut dice = Dice::new(7);
    let mut policy = config.lb().builder().build();
    let mut picker = lb::queue();
    let ready = SubchannelState { connectivity: ConnectivityState::Ready, error: None };
    let addresses = (0..endpoints).map(|nth| Endpoint::from(Address::Name(nth.to_string().into())));
    let update = LbUpdate { endpoints: addresses.collect(), config: config.lb().config().clone() };
    let changes = (0..endpoints as u32).map(|nth| LbEvent::SubchannelChanged {
        id: SubchannelId::new(nth, nth + 1),
        state: ready.clone(),
    });
    for event in [LbEvent::Update(update)].into_iter().chain(changes).chain([LbEvent::Flush]) {
        let mut cx = LbContext::new(Instant::now().into_std(), &mut dice, &mut numbers);
        policy.handle(event, &mut cx);
        for effect in cx.take_effects() {
            if let LbEffect::Publish { picker: published, .. } = effect {
                picker = published;
            }
        }
    }
    picker
}

/// Numbers subchannels and makes none.
struct Numbers(u32);

impl Subchannels for Numbers {
    fn create(&mut self, _: &Address) -> SubchannelId {
        self.0 += 1;
        SubchannelId::new(self.0 - 1, self.0)
    }
}

/// A connection to a peer that says no more than it must.
async fn connection() -> io::Result<Connection> {
    let (connector, mut listener) = memory::pipe();
    let authority = Authority::parse("rig").map_err(io::Error::other)?;
    let peer = tokio::spawn(async move {
        let mut socket = listener.accept().await?;
        // An empty SETTINGS frame.
        socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.ok()?;
        Some(socket)
    });
    let (connection, driver) = dial(
        &Foreign::new("the dialler", Arc::new(connector)),
        &Security::Insecure,
        &Address::Name("rig".into()),
        &authority,
        &ConnectionOptions::default(),
        None,
        Instant::now() + Duration::from_secs(10),
    )
    .await
    .map_err(io::Error::other)?;
    tokio::spawn(async move {
        // The socket lives as long as the driver does.
        let _socket = peer.await;
        driver.run(|_| {}).await
    });
    Ok(connection)
}
