//! What can be seen of a channel.

mod inspection;

pub use inspection::{
    ActorAnswer, ActorKind, ActorReport, ErrorReport, Inspection, PolicyReport, TimerReport,
    Transition,
};
