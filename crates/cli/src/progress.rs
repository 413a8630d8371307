//! A sign of life where something takes longer than a person waits without wondering.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Does `work`; shows `what` on standard error once it has taken a second, if that is a terminal.
pub(crate) fn during<T: Send>(what: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let (done, finished) = channel();
        let work = scope.spawn(move || {
            let result = work();
            // Nobody listens any more once the spinner is shown and gone.
            let _ = done.send(());
            result
        });
        if finished.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            // Hidden by itself where standard error is no terminal.
            let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(100));
            // An error is the end of a work that panicked, which `join` tells.
            let _ = finished.recv();
            spinner.finish_and_clear();
        }
        match work.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_comes_back_and_so_does_a_panic() {
        assert_eq!(during("adding", || 1 + 1), 2);
        let panic = std::panic::catch_unwind(|| during("failing", || panic!("it fails")));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"it fails"));
    }
}
