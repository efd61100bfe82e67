//! The credentials of a call, which are made anew for each attempt.

use super::shared::Elapsed;
use super::{CallHead, Shared, status};
use crate::transport::{CallContext, Connection};
use crate::types::{Metadata, Status};

/// What an attempt of `call` on `connection` sends: its metadata, after what its credentials add.
/// `None` where there are no credentials: then it sends its metadata as it is.
pub(super) async fn prove(
    shared: &Shared,
    call: &CallHead,
    connection: &Connection,
) -> Result<Option<Metadata>, Status> {
    if shared.credentials.is_empty() && call.credentials.is_empty() {
        return Ok(None);
    }
    // In a box: most calls have none, and their futures need no room for it.
    let proving = Box::pin(gather(shared, call, connection));
    match shared.before(call.deadline, proving).await {
        Ok(gathered) => gathered.map(Some),
        Err(Elapsed) => Err(status::deadline_while_proving()),
    }
}

async fn gather(
    shared: &Shared,
    call: &CallHead,
    connection: &Connection,
) -> Result<Metadata, Status> {
    let authority = call.authority.as_ref().unwrap_or_else(|| connection.authority());
    let level = connection.security_level();
    let context = CallContext::new(&call.path, authority, level);
    let mut all = Metadata::new();
    for credentials in shared.credentials.iter().chain(call.credentials.iter()) {
        let wanted = credentials.min_security_level();
        if wanted > level {
            return Err(status::too_little_security(connection.address(), level, wanted));
        }
        let metadata = credentials.metadata(&context).await.map_err(Status::from_control_plane)?;
        all.append_all(metadata);
    }
    all.append_all(call.metadata.clone());
    Ok(all)
}
