//! Whole channels in a simulated world: network, servers, resolver and clock follow from a seed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attempts;
mod calls;
mod chance;
mod checks;
mod faults;
mod network;
mod resolver;
mod server;
mod trace;
mod world;

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Once;

use world::Outcome;

#[test]
fn channels_keep_their_promises_under_the_first_quarter_of_the_seeds() {
    run_part(0);
}

#[test]
fn channels_keep_their_promises_under_the_second_quarter_of_the_seeds() {
    run_part(1);
}

#[test]
fn channels_keep_their_promises_under_the_third_quarter_of_the_seeds() {
    run_part(2);
}

#[test]
fn channels_keep_their_promises_under_the_last_quarter_of_the_seeds() {
    run_part(3);
}

#[test]
fn a_seed_leads_to_the_same_trace_every_time() {
    let compared = variable("SIMULATION_COMPARED").unwrap_or(SEEDS_COMPARED).clamp(1, SEEDS);
    for seed in (0..SEEDS).step_by((SEEDS / compared) as usize) {
        let [first, second] = [simulate(seed, steps()), simulate(seed, steps())];
        let mut lines = first.trace.lines().zip(second.trace.lines()).enumerate();
        if let Some((nth, (one, other))) = lines.find(|(_, (one, other))| one != other) {
            panic!("seed {seed} differs in line {nth}:\n{one}\n{other}");
        }
        assert_eq!(first.trace.len(), second.trace.len(), "seed {seed}");
    }
}

/// Says what happens under the seed in `SIMULATION_SEED`; nothing where there is none.
#[test]
fn a_seed_that_is_given_is_replayed() {
    if let Some(seed) = variable("SIMULATION_SEED") {
        let outcome = simulate(seed, steps());
        print!("{}", outcome.trace);
        assert!(outcome.violations.is_empty(), "{}", outcome.violations.join("\n"));
    }
}

/// Runs a quarter of the seeds.
fn run_part(part: u64) {
    let seeds = variable("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let begin = variable("SIMULATION_FIRST").unwrap_or(0);
    for seed in (begin..begin + seeds).filter(|seed| seed % 4 == part) {
        let outcome = simulate(seed, steps());
        if !outcome.violations.is_empty() {
            let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{seed}.trace"));
            std::fs::write(&file, &outcome.trace).unwrap();
            let violations = outcome.violations.join("\n");
            panic!(
                "seed {seed}: {violations}\n\nThe trace is in {}. To replay it:\n\
                 SIMULATION_SEED={seed} SIMULATION_STEPS={} \
                 cargo test --test simulation replayed -- --nocapture\n",
                file.display(),
                steps(),
            );
        }
    }
}

/// Runs one seed, in a runtime of its own.
fn simulate(seed: u64, steps: u64) -> Outcome {
    hear_panics();
    PANICS.take();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let mut outcome = runtime.block_on(world::run(seed, steps));
    drop(runtime);
    let panics = PANICS.take().into_iter().map(|panic| format!("panics: {panic}"));
    outcome.violations.extend(panics);
    outcome
}

/// Panics that the simulation injects are not worth a line; any other is a violation.
fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload().downcast_ref::<&str>();
            if !payload.is_some_and(|it| it.ends_with("injected by a test")) {
                PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
                earlier(info);
            }
        }));
    });
}

thread_local! {
    /// What has panicked in the run of this thread.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn steps() -> u64 {
    variable("SIMULATION_STEPS").unwrap_or(STEPS)
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| {
        value.parse().unwrap_or_else(|_| panic!("{name} is to be a number, not {value:?}"))
    })
}

/// How many seeds an ordinary run takes.
const SEEDS: u64 = 1_000;

/// Of how many of them the traces are compared.
const SEEDS_COMPARED: u64 = 20;

/// Enough for a channel to be built, upset and calmed; few enough for a thousand runs.
const STEPS: u64 = 60;
