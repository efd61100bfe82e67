//! Parts of the application that the channel calls, and what becomes of their panics.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{Status, harmless};

/// A part of the application has panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Panicked {
    part: &'static str,
    text: Arc<str>,
}

impl Panicked {
    fn new(part: &'static str, payload: Box<dyn Any + Send>) -> Self {
        let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) if !text.is_empty() => Arc::from(*text),
            (None, Some(text)) if !text.is_empty() => Arc::from(text.as_str()),
            _ => Arc::from("the panic carries no text"),
        };
        // The payload is the part's too. What its drop throws in turn is never dropped.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            mem::forget(again);
        }
        Self { part, text }
    }

    /// INTERNAL: how a call ends that met it.
    pub(crate) fn into_status(self) -> Status {
        Status::internal(self.to_string()).with_source(self)
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} panicked: {}", self.part, harmless(&self.text))
    }
}

impl Error for Panicked {}

/// Runs `work`, which calls `part` of the application. The name begins the error text, so it has
/// its article: "the picker".
///
/// Whatever the part leaves half done is its own: nothing of the library is borrowed to be changed
/// while it runs, but what it is lent to change.
pub(crate) fn caught<T>(part: &'static str, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Panicked::new(part, payload))
}

/// A value of the application. Its methods run under [`caught`], and so does its drop: a panic
/// there is logged, and never meets another panic that is unwinding, which would end the process.
pub(crate) struct Foreign<T> {
    part: &'static str,
    /// Taken out by the drop alone.
    value: Option<T>,
}

impl<T> Foreign<T> {
    /// `value`, which is `part` of the application.
    pub(crate) const fn new(part: &'static str, value: T) -> Self {
        Self { part, value: Some(value) }
    }

    /// The value, to look at without calling it. It is there until the drop.
    pub(crate) const fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Calls it.
    pub(crate) fn call<'a, R>(&'a self, work: impl FnOnce(&'a T) -> R) -> Result<R, Panicked> {
        let value = self.value.as_ref();
        let value = value.ok_or_else(|| Panicked { part: self.part, text: Arc::from(GONE) })?;
        caught(self.part, || work(value))
    }

    /// Calls it, to be changed.
    pub(crate) fn call_mut<'a, R>(
        &'a mut self,
        work: impl FnOnce(&'a mut T) -> R,
    ) -> Result<R, Panicked> {
        let value = self.value.as_mut();
        let value = value.ok_or_else(|| Panicked { part: self.part, text: Arc::from(GONE) })?;
        caught(self.part, || work(value))
    }

    /// Awaits what it makes.
    pub(crate) fn future<'a, R>(
        &'a self,
        make: impl FnOnce(&'a T) -> Pin<Box<dyn Future<Output = R> + Send + 'a>>,
    ) -> Caught<'a, R> {
        Caught::new(self.part, self.call(make))
    }

    /// Awaits what it makes, to be changed meanwhile.
    pub(crate) fn future_mut<'a, R>(
        &'a mut self,
        make: impl FnOnce(&'a mut T) -> Pin<Box<dyn Future<Output = R> + Send + 'a>>,
    ) -> Caught<'a, R> {
        Caught::new(self.part, self.call_mut(make))
    }
}

impl<T: Clone> Clone for Foreign<T> {
    fn clone(&self) -> Self {
        Self { part: self.part, value: self.value.clone() }
    }
}

impl<T> Drop for Foreign<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        if let Err(panicked) = caught(self.part, || drop(value)) {
            log_drop(&panicked);
        }
    }
}

impl<T> fmt::Debug for Foreign<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.part)
    }
}

/// A future of the application: it gives [`Panicked`] instead of unwinding, and its drop is caught
/// too.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Caught<'a, T> {
    part: &'static str,
    state: State<'a, T>,
}

enum State<'a, T> {
    Running(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
    /// The future was never made.
    Failed(Panicked),
    Over,
}

impl<'a, T> Caught<'a, T> {
    fn new(
        part: &'static str,
        made: Result<Pin<Box<dyn Future<Output = T> + Send + 'a>>, Panicked>,
    ) -> Self {
        Self { part, state: made.map_or_else(State::Failed, State::Running) }
    }

    /// Runs what `make` gives, which is of `part`.
    pub(crate) fn made(
        part: &'static str,
        make: impl FnOnce() -> Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    ) -> Self {
        Self::new(part, caught(part, make))
    }

    /// Runs `future`, which is of `part`.
    pub(crate) fn of(
        part: &'static str,
        future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    ) -> Self {
        Self { part, state: State::Running(future) }
    }

    fn end(&mut self) {
        if let State::Running(future) = mem::replace(&mut self.state, State::Over)
            && let Err(panicked) = caught(self.part, || drop(future))
        {
            log_drop(&panicked);
        }
    }
}

impl<T> Future for Caught<'_, T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let part = self.part;
        let polled = match &mut self.state {
            State::Running(future) => caught(part, || future.as_mut().poll(cx)),
            State::Failed(panicked) => Err(panicked.clone()),
            State::Over => Err(Panicked { part, text: Arc::from(GONE) }),
        };
        let ended = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panicked) => Err(panicked),
        };
        self.end();
        Poll::Ready(ended)
    }
}

impl<T> Drop for Caught<'_, T> {
    fn drop(&mut self) {
        self.end();
    }
}

fn log_drop(panicked: &Panicked) {
    tracing::error!(target: "switchboard", %panicked, "a part of the application panicked as it was dropped");
}

const GONE: &str = "it was used after its end";

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in its drop");
        }
    }

    #[test]
    fn a_panic_becomes_an_error_that_names_the_part_and_the_text() {
        let text = |outcome: Result<(), Panicked>| outcome.unwrap_err().to_string();
        assert_eq!(text(caught("the codec", || panic!("odd"))), "the codec panicked: odd");
        assert_eq!(text(caught("the codec", || panic!("{}", 7))), "the codec panicked: 7");
        assert_eq!(text(caught("it", || panic!(""))), "it panicked: the panic carries no text");
        let silent = || std::panic::panic_any(7);
        assert_eq!(text(caught("it", silent)), "it panicked: the panic carries no text");
        assert_eq!(caught("it", || 7), Ok(7));
        // A payload whose drop panics as well.
        let _ = caught("it", || std::panic::panic_any(Bomb)).unwrap_err();
    }

    #[test]
    fn a_drop_that_panics_does_no_harm_and_not_during_another_panic_either() {
        drop(Foreign::new("it", Bomb));
        let unwinding = caught("the test", || {
            let _bomb = Foreign::new("it", Bomb);
            let _future = Caught::of("it", Box::pin(async { drop(Bomb) }));
            panic!("another");
        });
        assert_eq!(unwinding.unwrap_err().to_string(), "the test panicked: another");
    }

    #[test]
    fn a_future_panics_at_once_later_or_in_its_drop() {
        let part = Foreign::new("it", ());
        let at_once = part.future::<()>(|()| panic!("at once"));
        assert_eq!(
            at_once.now_or_never().unwrap().unwrap_err().to_string(),
            "it panicked: at once"
        );
        let mut later = part.future(|()| {
            Box::pin(async {
                tokio::task::yield_now().await;
                drop(Bomb);
            }) as Pin<Box<dyn Future<Output = ()> + Send>>
        });
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        assert!(later.poll_unpin(cx).is_pending());
        let Poll::Ready(Err(panicked)) = later.poll_unpin(cx) else { unreachable!() };
        assert_eq!(panicked.to_string(), "it panicked: in its drop");
        // What it gave is kept.
        let in_its_drop = part.future(|()| {
            let bomb = Bomb;
            Box::pin(std::future::poll_fn(move |_| {
                let _keeps = &bomb;
                Poll::Ready(7)
            }))
        });
        assert_eq!(in_its_drop.now_or_never().unwrap(), Ok(7));
    }
}
