//! What can be seen of a channel.

#[cfg(feature = "prost")]
mod binary_log;
mod calls;
mod channels;
mod channelz;
mod clock;
mod graph;
mod inspection;
mod log;
mod observers;
#[cfg(feature = "otel")]
mod open_telemetry;

#[cfg(feature = "prost")]
pub use binary_log::{BinaryLog, BinaryLogSink, FileSink, InvalidFilter};
pub use calls::{AttemptKind, CallEvent, CallInfo, CallObserver, Observer};
pub use channels::{ChannelEvent, ChannelInfo, DisconnectReason};
#[cfg(feature = "channelz")]
pub use channelz::ChannelzService;
pub use channelz::{
    Channelz, ChannelzCalls, ChannelzChannel, ChannelzEvent, ChannelzKind, ChannelzPage,
    ChannelzRef, ChannelzSeverity, ChannelzSocket, ChannelzSubchannel, ChannelzTrace,
};
pub use inspection::{
    ActorAnswer, ActorKind, ActorReport, Certificate, ConnectionReport, ErrorReport, FaultReport,
    Inspection, PolicyReport, TimerReport, TlsReport, Transition,
};
#[cfg(feature = "otel")]
pub use open_telemetry::{
    GrpcTraceBinPropagator, OpenTelemetry, OpenTelemetryBuilder, UnknownMetric,
};

pub(crate) use channelz::{ChannelEntry, OwnCall, SocketEntry};
#[cfg(feature = "otel")]
pub(crate) use clock::instant;
pub(crate) use clock::{now, since_1970};
pub(crate) use inspection::Probe;
pub(crate) use log::{Log, Trouble};
pub(crate) use observers::{Observers, Watching};
