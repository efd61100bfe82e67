//! The official gRPC interop client over switchboard: one process runs one case against one server.
//!
//! It ends with 0 if the case passed, with 1 if it failed, after it has said what was expected and
//! what came, and with 2 where the command line is wrong.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test client reports by printing")]

mod cancel;
mod cases;
mod channelz;
mod churn;
mod compression;
mod cut;
mod equipment;
mod flags;
mod frozen;
mod health;
mod ledger;
mod proto;
mod soak;
mod tonic_client;
mod unread;
mod wire;

use std::process::ExitCode;

use clap::Parser;
use switchboard::Status;

use crate::flags::Flags;

#[tokio::main]
async fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) if error.use_stderr() => return wrong_usage(&one_line(&error)),
        Err(help) => {
            print!("{help}");
            return ExitCode::SUCCESS;
        }
    };
    if let Err(what) = flags.check() {
        return wrong_usage(&what);
    }
    let case = flags.test_case;
    match case.run(&flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {}", case.name(), described(&error));
            ExitCode::FAILURE
        }
    }
}

fn wrong_usage(what: &str) -> ExitCode {
    eprintln!("client: {what}");
    ExitCode::from(2)
}

/// What is wrong, without the hints on usage that follow it.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let paragraph: Vec<_> = text.lines().map(str::trim).take_while(|it| !it.is_empty()).collect();
    paragraph.join(" ").trim_start_matches("error: ").to_owned()
}

/// What was expected and what came. A status names its causes itself, so they are left out.
fn described(error: &anyhow::Error) -> String {
    let mut texts = Vec::new();
    for cause in error.chain() {
        texts.push(cause.to_string());
        if cause.is::<Status>() {
            break;
        }
    }
    texts.join(": ")
}
