use super::*;
use crate::policy::lb::LbRegistry;
use crate::policy::testing::{assert_table, picked};

fn config(policy: &str) -> Arc<ServiceConfig> {
    let text = format!(r#"{{"loadBalancingConfig": [{{"{policy}": {{}}}}]}}"#);
    Arc::new(ServiceConfig::parse(&text, &LbRegistry::default()).unwrap())
}

fn bad() -> ServiceConfigError {
    ServiceConfigError::new("x", "is wrong")
}

fn states() -> Vec<State> {
    vec![
        State::default(),
        State::Idle { config: Some(config("round_robin")) },
        State::Resolving { config: None },
        State::Resolving { config: Some(config("round_robin")) },
        State::Unconfigured,
        State::Serving { config: config("round_robin") },
        State::Shutdown,
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    let resolved = |config| Event::Resolved { endpoints: Arc::new([]), config, selector: None };
    vec![
        ("Demand", Event::Demand),
        ("GoIdle", Event::GoIdle),
        ("Resolved(none)", resolved(None)),
        ("Resolved(good)", resolved(Some(Ok(config("round_robin"))))),
        ("Resolved(bad)", resolved(Some(Err(bad())))),
        ("ResolveFailed", Event::ResolveFailed(Status::unavailable("no such name"))),
        (
            "Published",
            Event::Published {
                connectivity: ConnectivityState::Ready,
                picker: lb::queue(),
                config: None,
            },
        ),
        ("Close", Event::Close),
    ]
}

fn name(state: &State) -> String {
    match state {
        State::Idle { config } => format!("Idle{}", last(config.as_ref())),
        State::Resolving { config } => format!("Resolving{}", last(config.as_ref())),
        State::Unconfigured => "Unconfigured".to_owned(),
        State::Serving { config } => format!("Serving({})", config.lb().name()),
        State::Shutdown => "Shutdown".to_owned(),
    }
}

fn last(config: Option<&Arc<ServiceConfig>>) -> String {
    config.map(|config| format!("({})", config.lb().name())).unwrap_or_default()
}

fn text(effect: &Effect) -> String {
    match effect {
        Effect::StartResolver => "start resolver".to_owned(),
        Effect::ExitIdle => "exit idle".to_owned(),
        Effect::UpdateBalancer { config, .. } => format!("update({})", config.lb().name()),
        Effect::FailBalancer { config, status } => {
            format!("fail({}, {})", config.lb().name(), status.message())
        }
        Effect::RejectUpdate(reason) => format!("reject({reason})"),
        Effect::Publish { connectivity, picker, .. } => {
            format!("publish({connectivity}, {})", picked(&**picker))
        }
        Effect::Configure(config) => format!("configure({})", config.lb().name()),
        Effect::LetGo => "let go".to_owned(),
    }
}

fn step(state: State, event: Event) -> (State, Vec<String>) {
    let mut fx = Vec::new();
    let state = state.step(event, &config("pick_first"), &mut fx);
    (state, fx.iter().map(text).collect())
}

// spec: A21/previous-config
#[test]
fn every_state_has_an_answer_to_every_event() {
    let mut table = Vec::new();
    for state in states() {
        for (event_name, event) in events() {
            let (next, fx) = step(state.clone(), event);
            let (from, to) = (name(&state), name(&next));
            table.push(format!("{from} + {event_name} = {to}: {}", fx.join(", ")));
        }
    }
    assert_table(&table, TABLE);
}

// spec: A21/first-config-bad
#[test]
fn a_bad_first_config_does_not_fall_back_to_the_default() {
    let (state, _) = step(State::default(), Event::Demand);
    let resolved =
        |config| Event::Resolved { endpoints: Arc::new([]), config: Some(config), selector: None };
    let (state, fx) = step(state, resolved(Err(bad())));
    assert!(matches!(state, State::Unconfigured));
    assert!(!fx.iter().any(|effect| effect.starts_with("update")), "{fx:?}");
    let (state, fx) = step(state, resolved(Ok(config("round_robin"))));
    assert_eq!(fx, ["update(round_robin)"]);
    assert!(matches!(state, State::Serving { config } if config.lb().name() == "round_robin"));
}

#[test]
fn a_selector_comes_and_goes_with_results_that_are_taken_and_is_forgotten_when_idle() {
    use crate::types::{CallConfig, MethodConfig, SelectArgs};
    let select = |_: &SelectArgs<'_>| Ok(CallConfig::new(MethodConfig::new()));
    let selector: Arc<dyn ConfigSelector> = Arc::new(select);
    let resolved = |config, selector: &Option<_>| Event::Resolved {
        endpoints: Arc::new([]),
        config,
        selector: Option::clone(selector),
    };
    let has_one = |state: &State| match state {
        State::Serving { config } | State::Idle { config: Some(config) } => {
            config.selector().is_some()
        }
        _ => panic!("{}", name(state)),
    };
    let selector = Some(selector);
    let serving = || State::Serving { config: config("round_robin") };
    // Beside a config, and beside the one that was there.
    for config in [None, Some(Ok(config("round_robin")))] {
        let (state, fx) = step(serving(), resolved(config, &selector));
        assert_eq!((has_one(&state), fx), (true, vec!["update(round_robin)".to_owned()]));
    }
    let (state, _) = step(State::Resolving { config: None }, resolved(None, &selector));
    assert!(has_one(&state));
    let (state, _) = step(state, resolved(Some(Err(bad())), &None));
    assert!(has_one(&state), "what came with a bad config is not taken");
    let (state, _) = step(state, Event::ResolveFailed(Status::unavailable("no such name")));
    assert!(has_one(&state));
    let (gone, _) = step(state.clone(), resolved(None, &None));
    assert!(!has_one(&gone));
    let (idle, fx) = step(state, Event::GoIdle);
    assert!(!has_one(&idle));
    // Before calls see that the channel is idle.
    assert_eq!(fx, ["configure(pick_first)", "publish(IDLE, queue)", "let go"]);
}

const TABLE: &str = "
Idle + Demand = Resolving: publish(CONNECTING, queue), start resolver
Idle + GoIdle = Idle:
Idle + Resolved(none) = Idle:
Idle + Resolved(good) = Idle:
Idle + Resolved(bad) = Idle:
Idle + ResolveFailed = Idle:
Idle + Published = Idle:
Idle + Close = Shutdown: publish(SHUTDOWN, drop CANCELLED: the channel is closed), let go
Idle(round_robin) + Demand = Resolving(round_robin): publish(CONNECTING, queue), start resolver
Idle(round_robin) + GoIdle = Idle(round_robin):
Idle(round_robin) + Resolved(none) = Idle(round_robin):
Idle(round_robin) + Resolved(good) = Idle(round_robin):
Idle(round_robin) + Resolved(bad) = Idle(round_robin):
Idle(round_robin) + ResolveFailed = Idle(round_robin):
Idle(round_robin) + Published = Idle(round_robin):
Idle(round_robin) + Close = Shutdown: publish(SHUTDOWN, drop CANCELLED: the channel is closed), let go
Resolving + Demand = Resolving:
Resolving + GoIdle = Idle: publish(IDLE, queue), let go
Resolving + Resolved(none) = Serving(pick_first): update(pick_first)
Resolving + Resolved(good) = Serving(round_robin): update(round_robin)
Resolving + Resolved(bad) = Unconfigured: publish(TRANSIENT_FAILURE, fail UNAVAILABLE: error parsing service config: x: is wrong), reject(error parsing service config: x: is wrong)
Resolving + ResolveFailed = Serving(pick_first): fail(pick_first, no such name)
Resolving + Published = Resolving:
Resolving + Close = Shutdown: publish(SHUTDOWN, drop CANCELLED: the channel is closed), let go
Resolving(round_robin) + Demand = Resolving(round_robin):
Resolving(round_robin) + GoIdle = Idle(round_robin): publish(IDLE, queue), let go
Resolving(round_robin) + Resolved(none) = Serving(round_robin): update(round_robin)
Resolving(round_robin) + Resolved(good) = Serving(round_robin): update(round_robin)
Resolving(round_robin) + Resolved(bad) = Serving(round_robin): update(round_robin), reject(error parsing service config: x: is wrong)
Resolving(round_robin) + ResolveFailed = Serving(round_robin): fail(round_robin, no such name)
Resolving(round_robin) + Published = Resolving(round_robin):
Resolving(round_robin) + Close = Shutdown: publish(SHUTDOWN, drop CANCELLED: the channel is closed), let go
Unconfigured + Demand = Unconfigured:
Unconfigured + GoIdle = Idle: publish(IDLE, queue), let go
Unconfigured + Resolved(none) = Serving(pick_first): update(pick_first)
Unconfigured + Resolved(good) = Serving(round_robin): update(round_robin)
Unconfigured + Resolved(bad) = Unconfigured: publish(TRANSIENT_FAILURE, fail UNAVAILABLE: error parsing service config: x: is wrong), reject(error parsing service config: x: is wrong)
Unconfigured + ResolveFailed = Unconfigured:
Unconfigured + Published = Unconfigured:
Unconfigured + Close = Shutdown: publish(SHUTDOWN, drop CANCELLED: the channel is closed), let go
Serving(round_robin) + Demand = Serving(round_robin): exit idle
Serving(round_robin) + GoIdle = Idle(round_robin): publish(IDLE, queue), let go
Serving(round_robin) + Resolved(none) = Serving(round_robin): update(round_robin)
Serving(round_robin) + Resolved(good) = Serving(round_robin): update(round_robin)
Serving(round_robin) + Resolved(bad) = Serving(round_robin): update(round_robin), reject(error parsing service config: x: is wrong)
Serving(round_robin) + ResolveFailed = Serving(round_robin): fail(round_robin, no such name)
Serving(round_robin) + Published = Serving(round_robin): publish(READY, queue)
Serving(round_robin) + Close = Shutdown: publish(SHUTDOWN, drop CANCELLED: the channel is closed), let go
Shutdown + Demand = Shutdown:
Shutdown + GoIdle = Shutdown:
Shutdown + Resolved(none) = Shutdown:
Shutdown + Resolved(good) = Shutdown:
Shutdown + Resolved(bad) = Shutdown:
Shutdown + ResolveFailed = Shutdown:
Shutdown + Published = Shutdown:
Shutdown + Close = Shutdown:
";
