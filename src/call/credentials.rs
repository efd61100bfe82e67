//! The credentials of a call, which are made anew for each attempt.

use super::shared::Elapsed;
use super::{CallHead, NoRuntime, Shared, Terms, status};
use crate::transport::{AllCallCredentials, BoxFuture, CallContext, Connection};
use crate::types::{Authority, Metadata, MethodPath, Status};

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
        let authority = call.authority.as_ref().unwrap_or_else(|| connection.authority());
        let gathering = gather(shared, &call.path, authority, &call.credentials, connection);
        match shared.before(terms.deadline, gathering).await {
            Ok(gathered) => {
                let mut all = gathered?;
                all.append_all(terms.metadata(call).clone());
                Ok(all)
            }
            Err(Elapsed) => Err(status::deadline_while_proving()),
        }
    })
}

/// What the credentials of the channel, and then `own`, add to a request for `path`.
pub(super) async fn gather(
    shared: &Shared,
    path: &MethodPath,
    authority: &Authority,
    own: &AllCallCredentials,
    connection: &Connection,
) -> Result<Metadata, Status> {
    let level = connection.security_level();
    let runtime = shared.runtime.get().ok_or_else(|| status::no_runtime(NoRuntime))?;
    let context = CallContext::new(path, authority, level, runtime);
    let mut all = Metadata::new();
    for credentials in shared.credentials.iter().chain(own.iter()) {
        let wanted = credentials.min_security_level();
        if wanted > level {
            return Err(status::too_little_security(connection.address(), level, wanted));
        }
        let metadata = credentials.metadata(&context).await.map_err(Status::from_control_plane)?;
        all.append_all(metadata);
    }
    Ok(all)
}
