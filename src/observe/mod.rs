//! What can be seen of a channel.

#[cfg(feature = "prost")]
mod binary_log;
mod calls;
mod channels;
mod graph;
mod inspection;
mod observers;
#[cfg(feature = "otel")]
mod open_telemetry;

#[cfg(feature = "prost")]
pub use binary_log::{BinaryLog, BinaryLogSink, FileSink, InvalidFilter};
pub use calls::{AttemptKind, CallEvent, CallInfo, CallObserver, Observer};
pub use channels::{ChannelEvent, ChannelInfo, DisconnectReason};
pub use inspection::{
    ActorAnswer, ActorKind, ActorReport, ConnectionReport, ErrorReport, FaultReport, Inspection,
    PolicyReport, TimerReport, Transition,
};
#[cfg(feature = "otel")]
pub use open_telemetry::{
    GrpcTraceBinPropagator, OpenTelemetry, OpenTelemetryBuilder, UnknownMetric,
};

pub(crate) use observers::{Observers, guarded};
