//! Compares switchboard with its peers: the h2 crate used directly, tonic, and the official grpc crate.
//!
//! Every sample is a client process that calls one server process as fast as it can, each pinned to a core of its
//! own. The clients take turns, in an order that rotates from round to round, so that what disturbs the machine
//! disturbs all of them; the figures are medians over the rounds. Compare figures within one run, as ratios: CPU time
//! per call is steadier than calls per second.

#![expect(clippy::cast_precision_loss, reason = "counters become figures to read")]

mod alloc;
mod cases;
mod child;
mod clients;
mod drive;
mod path;
mod pin;
mod proto;
mod report;
mod secure;
mod servers;
mod short;

use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tokio::runtime::{Builder, Runtime};

use crate::cases::{Call, Case, Server};
use crate::child::Arguments;
use crate::clients::{Kind, Target};
use crate::drive::{Plan, Sample};
use crate::report::Row;
use crate::servers::null::{Answer, Mode};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// Compares switchboard with its peers
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct Options {
    /// Write the medians to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only the cases whose name contains this, such as unary/null/w1/c128/b32
    #[arg(long, value_name = "SUBSTR", default_value = "")]
    filter: String,
    /// Samples of each client in each case [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Length of a sample, after a warm-up of 0.3 times as much [default: 1.0]
    #[arg(long, value_name = "S", value_parser = seconds)]
    secs: Option<Duration>,
    /// Only see that everything works: one round of very short samples
    #[arg(long, conflicts_with_all = ["rounds", "secs"])]
    smoke: bool,
    /// Keep this many calls open and unanswered meanwhile (only unary calls to the null server)
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(..=100_000))]
    held: usize,
}

/// What else this program does, and what the processes do that it starts.
#[derive(Debug, Subcommand)]
enum Role {
    /// Compare windows over a path with a round trip of 50 ms
    Path(LongPath),
    /// Send short messages to a tonic server that reads, and to one that does not
    Short(ShortMessages),
    /// Answer with frames by hand
    #[command(hide = true)]
    ServeNull(ServeNull),
    /// Answer with tonic
    #[command(hide = true)]
    ServeTonic(ServeTonic),
    /// Take one sample
    #[command(hide = true)]
    Client(TakeSample),
}

#[derive(Debug, Args)]
struct LongPath {
    /// Transfer this many megabytes
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    mb: usize,
}

#[derive(Debug, Args)]
struct ShortMessages {
    /// Send this many on a stream
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    messages: usize,
    /// The body of each message
    #[arg(long, value_name = "N", default_value_t = 100)]
    bytes: usize,
    /// Milliseconds between two messages to the server that does not read
    #[arg(long, value_name = "MS", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    interval_ms: u64,
    /// Samples of each client with the server that reads
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    rounds: usize,
}

#[derive(Debug, Args)]
struct ServeNull {
    /// What is done with requests
    #[arg(long)]
    mode: NullMode,
    /// The body of each response
    #[arg(long)]
    bytes: usize,
    /// Responses on each stream in mode `down`
    #[arg(long, default_value_t = 1)]
    messages: u64,
    /// In mode `hold`, hold only the first calls of a connection; else all
    #[arg(long, default_value_t = u64::MAX)]
    hold_first: u64,
    /// In mode `hold`, answer after this long; else never
    #[arg(long)]
    hold_ms: Option<u64>,
    /// Over TLS, with the certificate in this folder
    #[arg(long)]
    tls: Option<PathBuf>,
    #[arg(long)]
    core: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NullMode {
    Unary,
    Hold,
    Stream,
    Down,
}

#[derive(Debug, Args)]
struct ServeTonic {
    /// Responses on each server stream
    #[arg(long, default_value_t = 1)]
    messages: u64,
    #[arg(long)]
    core: Option<usize>,
}

#[derive(Debug, Args)]
struct TakeSample {
    #[arg(long)]
    client: Kind,
    #[arg(long)]
    server: SocketAddr,
    /// Over TLS, with the roots in this folder
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Whether it can be asked about its health
    #[arg(long, action = ArgAction::Set)]
    has_health: bool,
    #[arg(long)]
    call: Call,
    #[arg(long)]
    workers: usize,
    #[arg(long)]
    callers: usize,
    #[arg(long)]
    bytes: usize,
    #[arg(long, default_value_t = 0)]
    held: usize,
    #[arg(long, value_parser = seconds)]
    warm_up: Duration,
    #[arg(long, value_parser = seconds)]
    measure: Duration,
    #[arg(long)]
    core: Option<usize>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.001..=30.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "not a number of seconds from 0.001 to 30".to_owned())
}

fn main() -> ExitCode {
    let Cli { role, options } = Cli::parse();
    let result = match role {
        None => compare(&options),
        Some(Role::Path(arguments)) => long_path(&arguments),
        Some(Role::Short(arguments)) => short_messages(&arguments),
        Some(Role::ServeNull(arguments)) => as_child(|| serve_null(&arguments)),
        Some(Role::ServeTonic(arguments)) => as_child(|| serve_tonic(&arguments)),
        Some(Role::Client(arguments)) => as_child(|| take_sample(&arguments)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Does what a process does that another one has started, and ends when that one does.
fn as_child(work: impl FnOnce() -> Result<()>) -> Result<()> {
    child::end_with_parent();
    work()
}

/// Says something to whoever watches.
fn note(text: &str) {
    // With nobody to say it to, it stays unsaid.
    let _ = writeln!(io::stderr(), "{text}");
}

fn wrong_arguments(message: impl std::fmt::Display) -> ! {
    Cli::command().error(ErrorKind::ValueValidation, message).exit()
}

/// The cores of one sample's two processes.
#[derive(Clone, Copy, Debug)]
struct Cores {
    server: Option<usize>,
    client: Option<usize>,
}

impl Cores {
    fn choose() -> Result<Self> {
        let available = pin::available().context("asking which cores there are")?;
        let (server, client) = (available.first().copied(), available.last().copied());
        if server == client {
            note("warning: server and client share one core");
        }
        Ok(Self { server, client })
    }

    /// A client of several workers runs where it likes, and so does its server.
    fn for_case(self, case: Case) -> Self {
        if case.workers == 1 {
            return self;
        }
        Self { server: None, client: None }
    }
}

/// What all samples of a run have in common.
#[derive(Clone, Copy, Debug)]
struct Settings {
    rounds: usize,
    warm_up: Duration,
    measure: Duration,
    held: usize,
}

/// Rounds from which on medians are worth a verdict.
const ENOUGH_ROUNDS: usize = 5;

fn compare(options: &Options) -> Result<()> {
    let cases: Vec<_> = cases::ALL
        .into_iter()
        .filter(|case| case.to_string().contains(&options.filter))
        .filter(|case| options.held == 0 || can_hold(*case))
        .collect();
    if cases.is_empty() {
        let names = cases::ALL.map(|case| format!("\n  {case}")).concat();
        wrong_arguments(format_args!("no case matches; there are:{names}"));
    }
    let mut json = options.json.as_ref().map(|path| {
        File::create(path).unwrap_or_else(|error| {
            wrong_arguments(format_args!("cannot write {}: {error}", path.display()))
        })
    });

    let (rounds, measure) = if options.smoke {
        (1, Duration::from_millis(100))
    } else {
        let rounds = options.rounds.map_or(ENOUGH_ROUNDS, |rounds| rounds as usize);
        (rounds, options.secs.unwrap_or(Duration::from_secs(1)))
    };
    let settings = Settings {
        rounds,
        warm_up: measure.mul_f64(0.3).max(Duration::from_millis(1)),
        measure,
        held: options.held,
    };

    let cores = Cores::choose()?;
    let mut rows = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        note(&format!("[{}/{}] {case}", index + 1, cases.len()));
        let measured = measure_case(*case, case.clients(), cores.for_case(*case), settings);
        let measured = measured.with_context(|| case.to_string())?;
        if let Some(file) = &mut json {
            for row in &measured {
                writeln!(file, "{}", serde_json::to_string(row)?)?;
            }
        }
        rows.extend(measured);
    }

    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", report::table(&rows))?;
    if settings.rounds < ENOUGH_ROUNDS || settings.held > 0 {
        writeln!(
            stdout,
            "not the run that the bars are for: fewer than {ENOUGH_ROUNDS} rounds, or held calls"
        )?;
    }
    writeln!(stdout, "{}", report::bars(&rows))?;
    Ok(())
}

/// Whether a case can have held calls beside it.
fn can_hold(case: Case) -> bool {
    case.call == Call::Unary && case.server == Server::Null
}

/// The medians of each client, against one server process.
fn measure_case(
    case: Case,
    clients: &[Kind],
    cores: Cores,
    settings: Settings,
) -> Result<Vec<Row>> {
    let secure = case.server == Server::NullTls;
    let folder = secure.then(secure::Folder::make).transpose()?;
    let tls = folder.as_ref().map(secure::Folder::path);
    let server = start_server(case, cores, settings.held, tls).context("starting the server")?;
    let mut samples = vec![Vec::with_capacity(settings.rounds); clients.len()];
    for round in 0..settings.rounds {
        for turn in 0..clients.len() {
            let index = (round + turn) % clients.len();
            let client = clients[index];
            let target = Target {
                address: server.address,
                tls: tls.map(Path::to_owned),
                has_health: case.server == Server::Tonic,
            };
            let sample = run_client(client, &target, case, cores, settings);
            samples[index].push(sample.with_context(|| client.to_string())?);
        }
    }
    let row = |(client, samples): (&Kind, &Vec<Sample>)| Row {
        case,
        client: *client,
        sample: report::medians(samples),
        held: settings.held,
    };
    Ok(clients.iter().zip(&samples).map(row).collect())
}

fn start_server(
    case: Case,
    cores: Cores,
    held: usize,
    tls: Option<&Path>,
) -> Result<child::Server> {
    let messages = cases::messages_per_stream(case.bytes);
    let arguments = match case.server {
        Server::Null | Server::NullTls => {
            let mode = match case.call {
                Call::Unary if held > 0 => "hold",
                // One response when the requests have ended.
                Call::Unary | Call::ClientStream => "unary",
                Call::PingPong => "stream",
                Call::ServerStream => "down",
            };
            Arguments::new("serve-null")
                .with("--mode", &mode)
                .with("--bytes", &case.bytes)
                .with("--hold-first", &held)
                .with_some("--tls", tls.map(Path::display))
        }
        Server::Tonic => Arguments::new("serve-tonic"),
    };
    let arguments = arguments.with("--messages", &messages);
    child::Server::start(arguments.with_some("--core", cores.server))
}

fn run_client(
    client: Kind,
    server: &Target,
    case: Case,
    cores: Cores,
    settings: Settings,
) -> Result<Sample> {
    let arguments = Arguments::new("client")
        .with("--client", &client)
        .with("--server", &server.address)
        .with_some("--tls", server.tls.as_deref().map(Path::display))
        .with("--call", &case.call.name())
        .with("--workers", &case.workers)
        .with("--callers", &case.callers)
        .with("--bytes", &case.bytes)
        .with("--held", &settings.held)
        .with("--warm-up", &settings.warm_up.as_secs_f64())
        .with("--measure", &settings.measure.as_secs_f64())
        .with("--has-health", &server.has_health)
        .with_some("--core", cores.client);
    let within = settings.warm_up + settings.measure + Duration::from_secs(20);
    let line = child::run(arguments, within)?;
    serde_json::from_str(&line).context("what a client measured")
}

fn long_path(arguments: &LongPath) -> Result<()> {
    let arguments_of_server = Arguments::new("serve-tonic").with("--messages", &u64::MAX);
    let server = child::Server::start(arguments_of_server).context("starting the server")?;
    let told = runtime(2)?.block_on(path::compare(&server, arguments.mb * 1_000_000))?;
    writeln!(io::stdout(), "{told}")?;
    Ok(())
}

fn short_messages(arguments: &ShortMessages) -> Result<()> {
    let load = short::Load {
        messages: arguments.messages,
        bytes: arguments.bytes,
        interval: Duration::from_millis(arguments.interval_ms),
    };
    let told = runtime(2)?.block_on(short::compare(load, arguments.rounds))?;
    writeln!(io::stdout(), "{told}")?;
    Ok(())
}

fn serve_null(arguments: &ServeNull) -> Result<()> {
    let mode = match arguments.mode {
        NullMode::Unary => Mode::Unary,
        NullMode::Hold => Mode::Hold {
            first: arguments.hold_first,
            delay: arguments.hold_ms.map(Duration::from_millis),
        },
        NullMode::Stream => Mode::Stream,
        NullMode::Down => Mode::Down { messages: arguments.messages },
    };
    pin(arguments.core)?;
    let listener = listen()?;
    let tls = arguments.tls.as_deref().map(secure::server_config).transpose()?;
    servers::null::serve(&listener, Answer::new(mode, arguments.bytes), tls.as_ref())?;
    Ok(())
}

fn serve_tonic(arguments: &ServeTonic) -> Result<()> {
    pin(arguments.core)?;
    let listener = listen()?;
    // As `#[tokio::main]` makes it here, and pinned like the null server: the threads share its core.
    runtime(2)?.block_on(servers::tonic::serve(listener, arguments.messages))
}

fn take_sample(arguments: &TakeSample) -> Result<()> {
    pin(arguments.core)?;
    let plan = Plan {
        call: arguments.call,
        callers: arguments.callers,
        bytes: arguments.bytes,
        held: arguments.held,
        warm_up: arguments.warm_up,
        measure: arguments.measure,
    };
    let runtime = runtime(arguments.workers)?;
    let target = Target {
        address: arguments.server,
        tls: arguments.tls.clone(),
        has_health: arguments.has_health,
    };
    let sampling = arguments.client.measure(&target, &plan);
    let sample = runtime.block_on(sampling)?;
    child::say(&serde_json::to_string(&sample)?)?;
    Ok(())
}

fn pin(core: Option<usize>) -> Result<()> {
    core.map_or(Ok(()), pin::pin_to).with_context(|| format!("pinning to core {core:?}"))
}

/// Listens on a free port and tells the parent which.
fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
    let port = listener.local_addr()?.port();
    child::say(&port.to_string())?;
    Ok(listener)
}

fn runtime(workers: usize) -> io::Result<Runtime> {
    let mut builder = if workers == 1 {
        Builder::new_current_thread()
    } else {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(workers);
        builder
    };
    builder.enable_all().build()
}
