#[path = "../../src/types/id.rs"]
mod id;

pub(crate) use id::{Generation, SubchannelId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectivityState {
    Connecting,
    Ready,
    Shutdown,
}
