//! What a channel does: when it resolves, which config it goes by, what it shows to calls.

use std::sync::Arc;

use super::lb::{self, DropPicker, FailPicker, Picker};
use super::service_config::{ServiceConfig, ServiceConfigError};
use crate::types::{ConnectivityState, Endpoint, Status};

/// The life of a channel.
///
/// ```text
///     ┌──────┐ Demand ┌───────────┐ Resolved, ResolveFailed ┌─────────┐
///     │ Idle │ ─────► │ Resolving │ ──────────────────────► │ Serving │
///     └──────┘        └───────────┘                         └─────────┘
///                           │ Resolved, with a bad config        ▲
///                           ▼                                    │
///                     ┌──────────────┐ Resolved, ResolveFailed   │
///                     │ Unconfigured │ ──────────────────────────┘
///                     └──────────────┘
///
///     Close, from anywhere: Shutdown
/// ```
///
/// Once a config applies, there is one for good: whatever comes later replaces it or leaves it.
#[derive(Clone, Debug, Default)]
pub(crate) enum State {
    /// Nobody has used the channel.
    #[default]
    Idle,
    /// Waiting for the first result of the resolver.
    Resolving,
    /// The first config was bad, and there is no earlier one to go on with.
    Unconfigured,
    /// The balancer has been told of endpoints, or why there are none.
    Serving {
        /// The config that applies.
        config: Arc<ServiceConfig>,
    },
    /// Closed for good.
    Shutdown,
}

/// What happens to it.
#[derive(Clone)]
pub(crate) enum Event {
    /// A call, or the application, wants the channel to work.
    Demand,
    /// The resolver has a result.
    Resolved {
        /// Every endpoint there is.
        endpoints: Arc<[Endpoint]>,
        /// The config that came with them, if one did.
        config: Option<Result<Arc<ServiceConfig>, ServiceConfigError>>,
    },
    /// The resolver has failed.
    ResolveFailed(Status),
    /// The balancer says how it stands.
    Published {
        /// In which state.
        connectivity: ConnectivityState,
        /// How calls are to pick.
        picker: Arc<dyn Picker>,
    },
    /// The application has no more use for the channel.
    Close,
}

/// What it wants done.
#[derive(Clone)]
pub(crate) enum Effect {
    /// Start resolving.
    StartResolver,
    /// Tell the balancer that somebody wants to use the channel.
    ExitIdle,
    /// Hand endpoints and config to the balancer.
    UpdateBalancer {
        /// Every endpoint there is.
        endpoints: Arc<[Endpoint]>,
        /// The config that applies.
        config: Arc<ServiceConfig>,
    },
    /// Tell the balancer that resolution has failed.
    FailBalancer {
        /// The config that applies.
        config: Arc<ServiceConfig>,
        /// Why.
        status: Status,
    },
    /// Refuse the resolver's result: it backs off and tries again.
    RejectUpdate(String),
    /// Show this state and this picker, together.
    Publish {
        /// The channel's state.
        connectivity: ConnectivityState,
        /// How calls are to pick.
        picker: Arc<dyn Picker>,
    },
    /// Stop everything.
    Stop,
}

impl State {
    /// The state after `event`; what is to be done goes onto `fx`, in order. `default_config`
    /// applies where the resolver gives none.
    pub(crate) fn step(
        self,
        event: Event,
        default_config: &Arc<ServiceConfig>,
        fx: &mut Vec<Effect>,
    ) -> Self {
        match (self, event) {
            (Self::Idle, Event::Demand) => {
                fx.push(Effect::Publish {
                    connectivity: ConnectivityState::Connecting,
                    picker: lb::queue(),
                });
                fx.push(Effect::StartResolver);
                Self::Resolving
            }
            (state @ Self::Serving { .. }, Event::Demand) => {
                fx.push(Effect::ExitIdle);
                state
            }
            (Self::Resolving | Self::Unconfigured, Event::Resolved { endpoints, config }) => {
                match config {
                    None => serve(endpoints, Arc::clone(default_config), fx),
                    Some(Ok(config)) => serve(endpoints, config, fx),
                    Some(Err(error)) => {
                        // [A21] Neither the default nor the endpoints are used: without the
                        // config that was meant for them, calls might do harm.
                        let reason = format!("error parsing service config: {error}");
                        fx.push(Effect::Publish {
                            connectivity: ConnectivityState::TransientFailure,
                            picker: Arc::new(FailPicker(Status::unavailable(reason.clone()))),
                        });
                        fx.push(Effect::RejectUpdate(reason));
                        Self::Unconfigured
                    }
                }
            }
            (Self::Serving { config: current }, Event::Resolved { endpoints, config }) => {
                match config {
                    None => serve(endpoints, current, fx),
                    Some(Ok(config)) => serve(endpoints, config, fx),
                    Some(Err(error)) => {
                        // [A21] The previous config stays, the new endpoints are used.
                        let state = serve(endpoints, current, fx);
                        fx.push(Effect::RejectUpdate(format!(
                            "error parsing service config: {error}"
                        )));
                        state
                    }
                }
            }
            (Self::Resolving | Self::Unconfigured, Event::ResolveFailed(status)) => {
                fail(status, Arc::clone(default_config), fx)
            }
            (Self::Serving { config }, Event::ResolveFailed(status)) => fail(status, config, fx),
            (
                state @ Self::Serving { .. },
                Event::Published {
                    connectivity,
                    picker,
                },
            ) => {
                fx.push(Effect::Publish {
                    connectivity,
                    picker,
                });
                state
            }
            (
                Self::Idle | Self::Resolving | Self::Unconfigured | Self::Serving { .. },
                Event::Close,
            ) => {
                fx.push(Effect::Publish {
                    connectivity: ConnectivityState::Shutdown,
                    picker: Arc::new(DropPicker(Status::cancelled("the channel is closed"))),
                });
                fx.push(Effect::Stop);
                Self::Shutdown
            }
            // Already on its way; and there is no balancer yet that could tell us anything.
            (
                state @ (Self::Resolving | Self::Unconfigured),
                Event::Demand | Event::Published { .. },
            )
            // Nobody has been asked yet: news of an earlier life.
            | (
                state @ Self::Idle,
                Event::Resolved { .. } | Event::ResolveFailed(_) | Event::Published { .. },
            )
            | (
                state @ Self::Shutdown,
                Event::Demand
                | Event::Resolved { .. }
                | Event::ResolveFailed(_)
                | Event::Published { .. }
                | Event::Close,
            ) => state,
        }
    }
}

fn serve(endpoints: Arc<[Endpoint]>, config: Arc<ServiceConfig>, fx: &mut Vec<Effect>) -> State {
    fx.push(Effect::UpdateBalancer { endpoints, config: Arc::clone(&config) });
    State::Serving { config }
}

fn fail(status: Status, config: Arc<ServiceConfig>, fx: &mut Vec<Effect>) -> State {
    fx.push(Effect::FailBalancer { config: Arc::clone(&config), status });
    State::Serving { config }
}

#[cfg(test)]
mod tests;
