//! What a channel does: when it resolves, which config it goes by, what it shows to calls.

use std::sync::Arc;

use super::lb::{self, DropPicker, FailPicker, Picker};
use super::service_config::{ServiceConfig, ServiceConfigError};
use crate::types::{ConfigSelector, ConnectivityState, Endpoint, Status};

/// The life of a channel.
///
/// ```text
///     ┌──────┐ Demand ┌───────────┐ Resolved, ResolveFailed ┌─────────┐
///     │ Idle │ ─────► │ Resolving │ ──────────────────────► │ Serving │
///     └──────┘        └───────────┘                         └─────────┘
///                           │ Resolved, with a bad config        ▲
///                           ▼ and none to go on with             │
///                     ┌──────────────┐ Resolved, with a good one │
///                     │ Unconfigured │ ──────────────────────────┘
///                     └──────────────┘
///
///     GoIdle, from all but Shutdown: Idle
///     Close, from anywhere: Shutdown
/// ```
///
/// Once a config applies, there is one for good: whatever comes later replaces it or leaves it, and
/// it is there still when the channel has been idle.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Nobody uses the channel.
    Idle {
        /// The config that applied the last time.
        config: Option<Arc<ServiceConfig>>,
    },
    /// Waiting for the first result of the resolver.
    Resolving {
        /// The config that applied the last time.
        config: Option<Arc<ServiceConfig>>,
    },
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

impl Default for State {
    fn default() -> Self {
        Self::Idle { config: None }
    }
}

/// What happens to it.
#[derive(Clone)]
pub(crate) enum Event {
    /// A call, or the application, wants the channel to work.
    Demand,
    /// Nobody has for a long time.
    GoIdle,
    /// The resolver has a result.
    Resolved {
        /// Every endpoint there is.
        endpoints: Arc<[Endpoint]>,
        /// The config that came with them, if one did.
        config: Option<Result<Arc<ServiceConfig>, ServiceConfigError>>,
        /// What chooses the configs of calls, if that came with them.
        selector: Option<Arc<dyn ConfigSelector>>,
    },
    /// The resolver has failed.
    ResolveFailed(Status),
    /// The balancer says how it stands.
    Published {
        /// In which state.
        connectivity: ConnectivityState,
        /// How calls are to pick.
        picker: Arc<dyn Picker>,
        /// The config that this was made of.
        config: Option<Arc<ServiceConfig>>,
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
    /// From now on calls go by this config; the balancer need not know.
    Configure(Arc<ServiceConfig>),
    /// Refuse the resolver's result: it backs off and tries again.
    RejectUpdate(String),
    /// Show this state and this picker, together.
    Publish {
        /// The channel's state.
        connectivity: ConnectivityState,
        /// How calls are to pick.
        picker: Arc<dyn Picker>,
        /// The config that the picker was made of, which calls go by; the one in force, where it
        /// was made of none.
        config: Option<Arc<ServiceConfig>>,
    },
    /// Stop resolving, drop the policies and let go of every connection.
    LetGo,
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
            (Self::Idle { config }, Event::Demand) => {
                fx.push(Effect::Publish {
                    connectivity: ConnectivityState::Connecting,
                    picker: lb::queue(),
                    config: None,
                });
                fx.push(Effect::StartResolver);
                Self::Resolving { config }
            }
            (state @ Self::Serving { .. }, Event::Demand) => {
                fx.push(Effect::ExitIdle);
                state
            }
            (Self::Resolving { config }, Event::GoIdle) => idle(config, fx),
            (Self::Unconfigured, Event::GoIdle) => idle(None, fx),
            (Self::Serving { config }, Event::GoIdle) => idle(Some(config), fx),
            (Self::Resolving { config: current }, Event::Resolved { endpoints, config, selector }) => {
                resolved(current, endpoints, config, selector, default_config, fx)
            }
            (Self::Unconfigured, Event::Resolved { endpoints, config, selector }) => {
                resolved(None, endpoints, config, selector, default_config, fx)
            }
            (Self::Serving { config: current }, Event::Resolved { endpoints, config, selector }) => {
                resolved(Some(current), endpoints, config, selector, default_config, fx)
            }
            (Self::Resolving { config }, Event::ResolveFailed(status)) => {
                fail(status, config.unwrap_or_else(|| Arc::clone(default_config)), fx)
            }
            (Self::Serving { config }, Event::ResolveFailed(status)) => fail(status, config, fx),
            (state @ Self::Serving { .. }, Event::Published { connectivity, picker, config }) => {
                fx.push(Effect::Publish { connectivity, picker, config });
                state
            }
            (
                Self::Idle { .. }
                | Self::Resolving { .. }
                | Self::Unconfigured
                | Self::Serving { .. },
                Event::Close,
            ) => {
                fx.push(Effect::Publish {
                    connectivity: ConnectivityState::Shutdown,
                    picker: Arc::new(DropPicker(Status::cancelled("the channel is closed"))),
                    config: None,
                });
                fx.push(Effect::LetGo);
                Self::Shutdown
            }
            // A failed lookup says nothing of the config: the default is not used in its place, and
            // calls fail with what is wrong with it until a good one comes [A21].
            (state @ Self::Unconfigured, Event::ResolveFailed(_))
            // Already on its way; and there is no balancer yet that could tell us anything.
            | (
                state @ (Self::Resolving { .. } | Self::Unconfigured),
                Event::Demand | Event::Published { .. },
            )
            // Nobody has been asked: news of an earlier life, or of before it went idle.
            | (
                state @ Self::Idle { .. },
                Event::GoIdle
                | Event::Resolved { .. }
                | Event::ResolveFailed(_)
                | Event::Published { .. },
            )
            | (
                state @ Self::Shutdown,
                Event::Demand
                | Event::GoIdle
                | Event::Resolved { .. }
                | Event::ResolveFailed(_)
                | Event::Published { .. }
                | Event::Close,
            ) => state,
        }
    }
}

/// Calls are to ask for the channel first; then everything goes.
fn idle(config: Option<Arc<ServiceConfig>>, fx: &mut Vec<Effect>) -> State {
    // A selector speaks for the resolver, which goes: calls are not to be chosen for by it before
    // the next has spoken.
    let has_selector = config.as_ref().is_some_and(|config| config.selector().is_some());
    let config = config.map(|config| config.with_selector(None));
    if let Some(config) = config.as_ref().filter(|_| has_selector) {
        fx.push(Effect::Configure(Arc::clone(config)));
    }
    let picker = lb::queue();
    fx.push(Effect::Publish { connectivity: ConnectivityState::Idle, picker, config: None });
    fx.push(Effect::LetGo);
    State::Idle { config }
}

/// The resolver has a result, and `current` is the config that applied so far.
fn resolved(
    current: Option<Arc<ServiceConfig>>,
    endpoints: Arc<[Endpoint]>,
    config: Option<Result<Arc<ServiceConfig>, ServiceConfigError>>,
    selector: Option<Arc<dyn ConfigSelector>>,
    default_config: &Arc<ServiceConfig>,
    fx: &mut Vec<Effect>,
) -> State {
    let reason = |error| format!("error parsing service config: {error}");
    match (config, current) {
        (None, None) => serve(endpoints, Arc::clone(default_config).with_selector(selector), fx),
        (None, Some(config)) | (Some(Ok(config)), _) => {
            serve(endpoints, config.with_selector(selector), fx)
        }
        (Some(Err(error)), Some(current)) => {
            // [A21] The previous config stays, with its selector; the new endpoints are used.
            let state = serve(endpoints, current, fx);
            fx.push(Effect::RejectUpdate(reason(error)));
            state
        }
        (Some(Err(error)), None) => {
            // [A21] Neither the default nor the endpoints are used: without the config that was
            // meant for them, calls might do harm.
            let reason = reason(error);
            fx.push(Effect::Publish {
                connectivity: ConnectivityState::TransientFailure,
                picker: Arc::new(FailPicker(Status::unavailable(reason.clone()))),
                config: None,
            });
            fx.push(Effect::RejectUpdate(reason));
            State::Unconfigured
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
