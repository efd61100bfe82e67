//! Tasks whose end is always told.

use std::future::Future;

use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

/// Runs `work` as a task and tells its outcome; `None` where it came to none: it panicked, it was
/// aborted, or its runtime has shut down, even before the task was polled for the first time.
///
/// Whoever aborts it is told as well, and knows by the number in the message that it is late.
pub(super) fn spawn_told<T: Send + 'static>(
    tasks: &TaskTracker,
    work: impl Future<Output = T> + Send + 'static,
    tell: impl FnOnce(Option<T>) + Send + 'static,
) -> AbortHandle {
    let end = End { outcome: None, tell: Some(tell) };
    let task = tasks.spawn(async move {
        let outcome = work.await;
        end.come_to(outcome);
    });
    task.abort_handle()
}

/// Tells when it is dropped: at the end of the task, however that comes.
struct End<T, F: FnOnce(Option<T>)> {
    outcome: Option<T>,
    tell: Option<F>,
}

impl<T, F: FnOnce(Option<T>)> End<T, F> {
    fn come_to(mut self, outcome: T) {
        self.outcome = Some(outcome);
    }
}

impl<T, F: FnOnce(Option<T>)> Drop for End<T, F> {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            tell(self.outcome.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    async fn told(work: impl Future<Output = u8> + Send + 'static, abort: bool) -> Option<u8> {
        let (sender, outcome) = oneshot::channel();
        let task = spawn_told(&TaskTracker::new(), work, |outcome| {
            let _ = sender.send(outcome);
        });
        if abort {
            task.abort();
        }
        outcome.await.unwrap()
    }

    #[tokio::test]
    async fn every_end_of_a_task_is_told_once() {
        assert_eq!(told(async { 7 }, false).await, Some(7));
        assert_eq!(told(async { panic!("a panic of the test") }, false).await, None);
        assert_eq!(told(std::future::pending(), true).await, None);
    }

    #[test]
    fn a_task_of_a_runtime_that_is_gone_has_ended() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _entered = handle.enter();
        let (sender, mut outcome) = oneshot::channel();
        spawn_told(&TaskTracker::new(), async { 7 }, |outcome| {
            let _ = sender.send(outcome);
        });
        assert_eq!(outcome.try_recv(), Ok(None));
    }
}
