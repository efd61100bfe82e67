//! What happened in a run, line by line, and what ought not to have.

use std::fmt::{Display, Write as _};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

/// A handle: clones write into one trace.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Inner>);

struct Inner {
    began: Instant,
    written: Mutex<Written>,
    /// Tasks of the simulation itself that are alive.
    tasks: AtomicUsize,
}

#[derive(Default)]
struct Written {
    text: String,
    violations: Vec<String>,
}

impl Trace {
    pub(crate) fn begin() -> Self {
        let (began, tasks) = (Instant::now(), AtomicUsize::new(0));
        Self(Arc::new(Inner { began, written: Mutex::default(), tasks }))
    }

    /// Writes down what has happened.
    pub(crate) fn tell(&self, what: impl Display) {
        let at = self.0.began.elapsed().as_secs_f64();
        let mut written = self.0.written.lock().unwrap();
        writeln!(written.text, "{at:10.3} {what}").unwrap();
    }

    /// Writes down what must not have happened.
    pub(crate) fn violated(&self, checker: &str, what: impl Display) {
        self.tell(format_args!("VIOLATION of {checker}: {what}"));
        self.0.written.lock().unwrap().violations.push(format!("{checker}: {what}"));
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.0.written.lock().unwrap().violations.is_empty()
    }

    /// All that was written, and the violations.
    pub(crate) fn end(&self) -> (String, Vec<String>) {
        let written = std::mem::take(&mut *self.0.written.lock().unwrap());
        (written.text, written.violations)
    }

    /// `future` as a task of the simulation, which is told apart from those of the channel.
    pub(crate) fn counted<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        self.0.tasks.fetch_add(1, Ordering::SeqCst);
        let one = One(self.clone());
        async move {
            let _one = one;
            future.await
        }
    }

    /// Tasks of the runtime that are not the simulation's.
    pub(crate) fn foreign_tasks(&self) -> usize {
        let all = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        all.saturating_sub(self.0.tasks.load(Ordering::SeqCst))
    }
}

struct One(Trace);

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.tasks.fetch_sub(1, Ordering::SeqCst);
    }
}
