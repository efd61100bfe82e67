//! The credentials of a call, which are made anew for each attempt.

use super::retry::AttemptError;
use super::shared::Elapsed;
use super::{CallHead, NoRuntime, Shared, Terms, status};
use crate::transport::{AllCallCredentials, BoxFuture, CallContext, Connection};
use crate::types::{Authority, Metadata, MethodPath, Panicked, Status};

/// Whether attempts of `call` are to be proved. Most calls have no credentials; this is all that
/// they pay for it.
pub(super) fn wants_proof(shared: &Shared, call: &CallHead) -> bool {
    !shared.credentials.is_empty() || !call.credentials.is_empty()
}

/// An attempt has no credentials.
pub(super) enum ProofError {
    /// They failed: another attempt may have some.
    Failed(Status),
    /// There is to be no other attempt.
    Ended(Status),
}

impl ProofError {
    pub(super) fn into_status(self) -> Status {
        match self {
            Self::Failed(status) | Self::Ended(status) => status,
        }
    }

    /// How the attempt failed, or else the status of the call.
    pub(super) fn into_attempt_error(self) -> Result<AttemptError, Status> {
        match self {
            Self::Failed(status) => Ok(AttemptError::Credentials(status)),
            Self::Ended(status) => Err(status),
        }
    }
}

/// What an attempt of `call` on `connection` sends: its metadata, after what its credentials add.
/// In a box, so that the futures of most calls need no room for it.
pub(super) fn prove<'a>(
    shared: &'a Shared,
    call: &'a CallHead,
    terms: &'a Terms,
    connection: &'a Connection,
) -> BoxFuture<'a, Result<Metadata, ProofError>> {
    Box::pin(async move {
        let waiting = shared.activity.wait().map_err(status::too_many_waiting);
        let _waiting = waiting.map_err(ProofError::Ended)?;
        let audience = connection.audience(call.authority.as_ref());
        let authority = audience.map_err(|error| {
            ProofError::Failed(status::of_stream_error(&error, None, connection.address()))
        })?;
        let gathering = gather(shared, &call.path, authority, &call.credentials, connection);
        match shared.before(terms.deadline, gathering).await {
            Ok(gathered) => {
                let mut all = gathered?;
                all.append_all(terms.metadata(call).clone());
                Ok(all)
            }
            Err(Elapsed) => Err(ProofError::Ended(status::deadline_while_proving())),
        }
    })
}

/// What the credentials of the channel, and then `own`, add to a request for `path`. They are asked
/// for `authority`, which the server has proved to be.
pub(super) async fn gather(
    shared: &Shared,
    path: &MethodPath,
    authority: &Authority,
    own: &AllCallCredentials,
    connection: &Connection,
) -> Result<Metadata, ProofError> {
    let level = connection.security_level();
    let no_runtime = || ProofError::Ended(status::no_runtime(NoRuntime::Missing));
    let runtime = shared.runtime.get().ok_or_else(no_runtime)?;
    let context = CallContext::new(path, authority, level, runtime);
    let mut all = Metadata::new();
    let panicked = |it: Panicked| ProofError::Ended(it.into_status());
    for credentials in shared.credentials.iter().chain(own.iter()) {
        let wanted = credentials.call(|credentials| credentials.min_security_level());
        let wanted = wanted.map_err(panicked)?;
        if wanted > level {
            let status = status::too_little_security(connection.address(), level, wanted);
            return Err(ProofError::Failed(status));
        }
        let made = credentials.future(|credentials| credentials.metadata(&context)).await;
        let made = made.map_err(panicked)?;
        let made = made.map_err(|failure| {
            ProofError::Failed(status::credentials_failed(connection.address(), failure))
        })?;
        all.append_all(made.into_sensitive());
    }
    Ok(all)
}
