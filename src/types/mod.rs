//! The vocabulary: plain values that parse and print. No I/O, no tasks, no clock.

mod address;
mod authority;
mod chance;
mod compression;
mod config_selector;
mod connectivity;
mod deadline;
mod family;
mod foreign;
mod id;
mod ip;
mod metadata;
mod method;
mod method_config;
mod refresh;
mod security;
mod seen;
mod shown;
mod status;
mod target;

pub use address::{Address, Endpoint};
pub use authority::{Authority, InvalidAuthority};
pub use compression::Compression;
pub use config_selector::{CallConfig, ConfigSelector, SelectArgs};
pub use connectivity::ConnectivityState;
pub use deadline::Deadline;
pub use id::{Generation, SubchannelId};
pub use metadata::{InvalidMetadata, Metadata};
pub use method::{InvalidMethodPath, MethodPath};
pub use method_config::MethodConfig;
pub use refresh::Refresh;
pub use security::SecurityLevel;
pub(crate) use status::untold;
pub use status::{Code, Status};
pub use target::{Target, TargetError};

pub(crate) use chance::Dice;
pub(crate) use config_selector::{ForeignSelector, OnCommit};
pub(crate) use deadline::{Timeout, later};
pub(crate) use family::{Family, interleaved};
pub(crate) use foreign::{Caught, Foreign, Panicked, caught};
pub(crate) use ip::{InvalidIp, ip_addr, is_ipv6, socket_addr};
pub(crate) use method_config::{AttemptPolicy, CodeSet, HedgingPolicy, RetryPolicy};
pub(crate) use seen::Seen;
pub(crate) use shown::{Harmless, harmless, shown};
