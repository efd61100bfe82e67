//! What can be seen of a channel.

#[cfg(feature = "prost")]
mod binary_log;
mod calls;
mod graph;
mod inspection;

#[cfg(feature = "prost")]
pub use binary_log::{BinaryLog, BinaryLogSink, FileSink, InvalidFilter};
pub use calls::{AttemptKind, CallEvent, CallInfo, CallObserver, Observer};
pub use inspection::{
    ActorAnswer, ActorKind, ActorReport, ConnectionReport, ErrorReport, FaultReport, Inspection,
    PolicyReport, TimerReport, Transition,
};
