//! What can be seen of a channel.

mod calls;
mod inspection;

pub use calls::{AttemptKind, CallEvent, CallInfo, CallObserver, Observer};
pub use inspection::{
    ActorAnswer, ActorKind, ActorReport, ErrorReport, Inspection, PolicyReport, TimerReport,
    Transition,
};
