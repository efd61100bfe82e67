//! Interceptors and an observer: metadata for all calls, answers that are remembered, and what
//! calls have come to.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use greeter::{Greeter, SAY_HELLO, ask, target_of};
use switchboard::{
    Answer, CallEvent, CallInfo, CallObserver, Channel, Credentials, EncodedMessage, Interceptor,
    Next, Observer, OutgoingCall, Response, Status,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let greeter = Greeter::start();
    // The first is the outermost: it sees all calls, the second those that are not remembered.
    let channel = Channel::builder(target_of([&greeter]))
        .credentials(Credentials::insecure())
        .interceptor(Remembering::default())
        .interceptor(Naming("blue"))
        .observer(Reporting)
        .build()?;
    for name in ["Ada", "Ada", "Grace"] {
        let request = ask(name).on_finish(move |result| {
            let end = if result.is_ok() { "an answer" } else { "an error" };
            println!("the call for {name} ended with {end}");
        });
        let reply = channel.invoke(&SAY_HELLO, request).await?;
        println!("{}, to {:?}", reply.message().message, reply.metadata().get("echo"));
    }
    println!("the server was asked {} times", greeter.received());
    channel.close().await;
    if greeter.received() == 2 { Ok(()) } else { Err("one answer should be remembered".into()) }
}

/// Says in all calls who calls. It needs no more than the synchronous hook, which costs nothing.
struct Naming(&'static str);

impl Interceptor for Naming {
    fn before(&self, call: &mut OutgoingCall) -> Result<(), Status> {
        let added = call.metadata_mut().insert("echo", self.0);
        added.map_err(|error| Status::internal(error.to_string()))
    }
}

/// Answers unary calls that were made before without asking a server again.
#[derive(Default)]
struct Remembering {
    answers: Mutex<HashMap<Question, Response<Bytes>>>,
}

/// A method and a message.
type Question = (String, Vec<u8>);

impl Interceptor for Remembering {
    fn unary<'a>(
        &'a self,
        call: OutgoingCall,
        message: EncodedMessage,
        next: Next<'a>,
    ) -> Answer<'a, Response<Bytes>> {
        let question = (call.method().to_string(), message.payload().to_vec());
        let known =
            self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&question).cloned();
        if let Some(answer) = known {
            return Answer::of(Ok(answer));
        }
        Answer::later(async move {
            let answer = next.unary(call, message).await?;
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.insert(question, answer.clone());
            Ok(answer)
        })
    }
}

/// Prints what becomes of calls that reach the channel.
struct Reporting;

impl Observer for Reporting {
    fn call_began(&self, call: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        Some(Arc::new(Report { method: call.method.to_string() }))
    }
}

struct Report {
    method: String,
}

impl CallObserver for Report {
    fn event(&self, event: &CallEvent<'_>) {
        match event {
            CallEvent::RequestHeaders { attempt, peer, .. } => {
                println!("{}: attempt {attempt} goes to {peer}", self.method);
            }
            CallEvent::Ended { result: Ok(()) } => println!("{}: OK", self.method),
            CallEvent::Ended { result: Err(status) } => println!("{}: {status}", self.method),
            _ => {}
        }
    }
}
