//! The credentials of a call, which are made anew for each attempt.

use super::shared::Elapsed;
use super::{CallHead, NoRuntime, Shared, Terms, status};
use crate::transport::{BoxFuture, CallContext, Connection};
use crate::types::{Metadata, Status};

/// Whether attempts of `call` are to be proved. Most calls have no credentials; this is all that
/// they pay for it.
pub(super) fn wants_proof(shared: &Shared, call: &CallHead) -> bool {
    !shared.credentials.is_empty() || !call.credentials.is_empty()
}

/// What an attempt of `call` on `connection` sends: its metadata, after what its credentials add.
/// In a box, so that the futures of most calls need no room for it.
pub(super) fn prove<'a>(
    shared: &'a Shared,
    call: &'a CallHead,
    terms: &'a Terms,
    connection: &'a Connection,
) -> BoxFuture<'a, Result<Metadata, Status>> {
    Box::pin(async move {
        let _waiting = shared.activity.wait().map_err(status::too_many_waiting)?;
        match shared.before(terms.deadline, gather(shared, call, terms, connection)).await {
            Ok(gathered) => gathered,
            Err(Elapsed) => Err(status::deadline_while_proving()),
        }
    })
}

async fn gather(
    shared: &Shared,
    call: &CallHead,
    terms: &Terms,
    connection: &Connection,
) -> Result<Metadata, Status> {
    let authority = call.authority.as_ref().unwrap_or_else(|| connection.authority());
    let level = connection.security_level();
    let runtime = shared.runtime.get().ok_or_else(|| status::no_runtime(NoRuntime))?;
    let context = CallContext::new(&call.path, authority, level, runtime);
    let mut all = Metadata::new();
    for credentials in shared.credentials.iter().chain(call.credentials.iter()) {
        let wanted = credentials.min_security_level();
        if wanted > level {
            return Err(status::too_little_security(connection.address(), level, wanted));
        }
        let metadata = credentials.metadata(&context).await.map_err(Status::from_control_plane)?;
        all.append_all(metadata);
    }
    all.append_all(terms.metadata(call).clone());
    Ok(all)
}
