//! Servers and clients as processes of their own: this program, started again in another role.
//!
//! A child says one line on its standard output: a server its port, a client what it measured. It ends when its
//! standard input does, so none outlives this process however that ends.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Until a server listens.
const STARTED: Duration = Duration::from_secs(10);

/// Arguments of a child, option by option.
pub(crate) struct Arguments(Vec<String>);

impl Arguments {
    pub(crate) fn new(role: &str) -> Self {
        Self(vec![role.to_owned()])
    }

    pub(crate) fn with(mut self, option: &str, value: &impl fmt::Display) -> Self {
        self.0.extend([option.to_owned(), value.to_string()]);
        self
    }

    pub(crate) fn with_some(self, option: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(option, &value),
            None => self,
        }
    }
}

/// A child that is killed, by its id, when this is dropped.
struct Process(Child);

impl Process {
    fn start(arguments: Arguments) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        Command::new(program)
            .args(arguments.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map(Self)
            .context("starting a child process")
    }

    /// The line that the child says. Waiting costs no CPU time, which the others are measured with.
    fn line(&mut self, within: Duration) -> Result<String> {
        let stdout = self.0.stdout.take().context("a child says one line")?;
        let (said, saying) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            // Nobody listens any more when it took too long.
            let _ = said.send(read.map(|_| line));
        });
        let line = saying.recv_timeout(within);
        let line = line.with_context(|| format!("a child was silent for {within:?}"))??;
        ensure!(!line.is_empty(), "a child failed");
        Ok(line)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child that has ended, which is what they are for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that runs until this is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl Server {
    /// Starts a server and waits until it listens.
    pub(crate) fn start(arguments: Arguments) -> Result<Self> {
        let mut process = Process::start(arguments)?;
        let line = process.line(STARTED)?;
        let port = line.trim().parse().context("the port of a server")?;
        Ok(Self { address: (Ipv4Addr::LOCALHOST, port).into(), _process: process })
    }
}

/// Runs a child until it has said its line.
pub(crate) fn run(arguments: Arguments, within: Duration) -> Result<String> {
    Process::start(arguments)?.line(within)
}

/// In a child: says its line.
pub(crate) fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// In a child: ends the process when its parent has gone.
pub(crate) fn end_with_parent() {
    thread::spawn(|| {
        // Nothing is ever written to it: this returns when the other end is closed.
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}
