use super::*;

/// What the progress thread sees: how many calls were posted so far, and whether some of them lie in the buffer.
fn seen(watch: Watch, calls: u32, is_filled: bool) -> Outgoing {
    let buffer = vec![0; usize::from(is_filled)];
    Outgoing { buffer, next_call: CallId(1 + calls), watch, ..Outgoing::new() }
}

fn busy(calls: u32, left: u32) -> Watch {
    Watch::Busy { calls: CallId(1 + calls), left }
}

#[test]
fn nothing_is_sent_in_a_quiet_time() {
    assert_eq!(seen(Watch::Quiet, 5, false).looked(false), (false, Watch::Quiet));
}

#[test]
fn what_is_posted_after_a_quiet_time_is_sent_at_once() {
    for is_urgent in [false, true] {
        assert_eq!(seen(Watch::Quiet, 5, true).looked(is_urgent), (true, busy(5, 0)));
    }
}

#[test]
fn a_buffer_that_is_being_filled_is_left_lying_for_a_few_looks_and_no_longer() {
    let (mut calls, mut watch) = (5, busy(5, 0));
    for _ in 0..3 {
        for left in 1..=PATIENCE {
            calls += 1;
            let (send, next) = seen(watch, calls, true).looked(false);
            assert_eq!((send, next), (false, busy(calls, left)));
            watch = next;
        }
        calls += 1;
        assert_eq!(seen(watch, calls, true).looked(false), (true, busy(calls, 0)), "patience is over");
        watch = busy(calls, 0);
    }
}

#[test]
fn a_buffer_that_nothing_was_added_to_is_sent_and_the_time_is_quiet() {
    for left in 0..=PATIENCE {
        for is_urgent in [false, true] {
            assert_eq!(seen(busy(5, left), 5, true).looked(is_urgent), (true, Watch::Quiet));
        }
        // Its poster has sent it meanwhile; there is nothing to send.
        assert_eq!(seen(busy(5, left), 5, false).looked(false).1, Watch::Quiet);
    }
}

#[test]
fn a_buffer_that_its_poster_has_sent_is_watched_anew() {
    for left in 0..=PATIENCE {
        assert_eq!(seen(busy(5, left), 9, false).looked(false).1, busy(9, 0));
    }
}

#[test]
fn what_is_urgent_takes_along_what_is_left_lying() {
    for left in 0..=PATIENCE {
        assert_eq!(seen(busy(5, left), 9, true).looked(true), (true, busy(9, 0)));
    }
}

#[test]
fn while_whole_buffers_are_sent_nothing_else_is_and_looks_are_rarer() {
    for is_filled in [false, true] {
        for (is_urgent, look) in [(false, Look::Later), (true, Look::Soon)] {
            let mut out = seen(busy(5, PATIENCE), 9, is_filled);
            out.was_full = true;
            assert_eq!(out.look(is_urgent), (is_urgent, look));
            assert_eq!((out.watch, out.announced), (busy(9, 0), true));
            assert_eq!(out.look(is_urgent), (true, Look::Never), "as before");
        }
    }
    let mut out = seen(Watch::Quiet, 5, true);
    out.was_full = true;
    assert_eq!(out.look(false), (true, Look::Later), "what follows a quiet time is sent all the same");
    assert_eq!(out.look(false), (true, Look::Never), "nothing more has come");
    assert!(!out.announced, "posters tell the progress thread again");
}

#[test]
fn a_poster_that_goes_on_after_waiting_for_the_worker_is_not_disturbed() {
    // It fills a buffer; the progress thread knows of it, or is told once.
    for (watch, announced) in [(Watch::Quiet, false), (busy(5, 2), true)] {
        let mut out = seen(watch, 5, false);
        out.announced = announced;
        assert_eq!((out.resume(), out.resume()), (!announced, false));
        out.next_call = CallId(9);
        out.buffer.push(0);
        assert_eq!(out.look(false), (false, Look::Later));
        // It posts no more.
        assert_eq!(out.look(false), (true, Look::Never));
    }
}
