//! Captures of streams; what they are is told in [`crate::graph::capture`].

use cuda_types::{CuError, CuResult};

use super::graph::{Edge, check_edges, list};
use super::stream::{NON_BLOCKING, flags_of};
use crate::edge::{DefaultStream, Out, Required, entries, twins};
use crate::graph::capture::{self, INVALIDATED, UNJOINED, key};
use crate::graph::store;
use crate::handles::resolve;

entries! {
    /// Exchanges this thread's capture mode: which captures forbid it calls that may break them.
    fn cudaThreadExchangeStreamCaptureMode(mode: Option<&mut u32>) {
        let mode = mode.required()?;
        if *mode > 2 {
            return Err(CuError::INVALID_VALUE);
        }
        *mode = capture::exchange_mode(*mode);
        Ok(())
    }
}

twins! {
    /// Makes the stream's calls nodes of a new graph; 0 = global, 1 = thread-local, 2 = relaxed.
    fn cudaStreamBeginCapture, cudaStreamBeginCapture_ptsz(default; stream: u64, mode: u32) {
        begin(default, stream, mode, None)
    }

    /// Makes the stream's calls nodes of a graph that exists, the first one behind `dependencies`.
    fn cudaStreamBeginCaptureToGraph, cudaStreamBeginCaptureToGraph_ptsz(default; stream: u64, graph: u64, dependencies: *const u64, edges: *const Edge, count: usize, mode: u32) {
        // SAFETY: the caller's arrays of `count` entries (module doc of `edge`).
        let tail = unsafe {
            check_edges(edges, count)?;
            list(dependencies, count)?
        };
        begin(default, stream, mode, Some((graph, tail)))
    }

    /// Ends the capture that began in the stream; a failed one has no graph. Who captured into a graph of his own
    /// need not ask for it.
    fn cudaStreamEndCapture, cudaStreamEndCapture_ptsz(default; stream: u64, graph: Out<'_, u64>) {
        let target = resolve(default, stream)?;
        let mut gone = Vec::new();
        let ended = store::with(|store| {
            if graph.is_none() && !store.captures_into_own_graph(key(&target)) {
                return Err(CuError::INVALID_VALUE);
            }
            store.end(key(&target), &mut gone)
        });
        drop(gone);
        let handle = match ended {
            Ok(captured) => captured,
            // CUDA Runtime API, cudaStreamEndCapture: NULL if the capture was invalidated.
            Err(INVALIDATED | UNJOINED) => 0,
            Err(error) => return Err(error),
        };
        if let Some(graph) = graph {
            graph.write(handle);
        }
        ended.map(drop)
    }

    /// Whether the stream is captured: 0 = no, 1 = yes, 2 = in a capture that is invalid.
    fn cudaStreamIsCapturing, cudaStreamIsCapturing_ptsz(default; stream: u64, status: Out<'_, u32>) {
        let status = status.required()?;
        info(default, stream, &mut Answers { status: Some(status), ..Answers::default() })
    }

    /// What captures the stream, as the first version answers it: status and number.
    fn info_1, info_1_ptsz(default; stream: u64, status: Out<'_, u32>, id: Out<'_, u64>) {
        let status = status.required()?;
        info(default, stream, &mut Answers { status: Some(status), id, ..Answers::default() })
    }

    /// What captures the stream, as the second version answers it: with the graph and what comes next there.
    fn info_2, info_2_ptsz(default; stream: u64, status: Out<'_, u32>, id: Out<'_, u64>, graph: Out<'_, u64>, dependencies: Out<'_, *const u64>, count: Out<'_, usize>) {
        let status = status.required()?;
        info(default, stream, &mut Answers { status: Some(status), id, graph, dependencies, count, edges: None })
    }

    /// What captures the stream, as the third version answers it: with edges.
    fn info_3, info_3_ptsz(default; stream: u64, status: Out<'_, u32>, id: Out<'_, u64>, graph: Out<'_, u64>, dependencies: Out<'_, *const u64>, edges: Out<'_, *const Edge>, count: Out<'_, usize>) {
        let status = status.required()?;
        info(default, stream, &mut Answers { status: Some(status), id, graph, dependencies, count, edges })
    }

    /// Changes what the stream's next node comes after: flag 0 adds, 1 replaces.
    fn update_1, update_1_ptsz(default; stream: u64, dependencies: *const u64, count: usize, flags: u32) {
        update(default, stream, dependencies, std::ptr::null(), count, flags)
    }

    /// The same, with edges.
    fn update_2, update_2_ptsz(default; stream: u64, dependencies: *const u64, edges: *const Edge, count: usize, flags: u32) {
        update(default, stream, dependencies, edges, count, flags)
    }
}

/// Room for what a version of `cudaStreamGetCaptureInfo` answers.
#[derive(Default)]
struct Answers<'a> {
    status: Out<'a, u32>,
    id: Out<'a, u64>,
    graph: Out<'a, u64>,
    dependencies: Out<'a, *const u64>,
    edges: Out<'a, *const Edge>,
    count: Out<'a, usize>,
}

fn begin(default: DefaultStream, stream: u64, mode: u32, into: Option<(u64, Vec<u64>)>) -> CuResult<()> {
    let target = resolve(default, stream)?;
    target.session.check()?;
    let blocking = flags_of(stream) & NON_BLOCKING == 0;
    store::with(|store| store.begin(key(&target), blocking, mode, into))
}

fn info(default: DefaultStream, stream: u64, answers: &mut Answers<'_>) -> CuResult<()> {
    let target = resolve(default, stream)?;
    store::with(|store| {
        let found = store.captures.info(key(&target))?;
        let status = found.as_ref().map_or(0, |info| if info.invalid { 2 } else { 1 });
        write(&mut answers.status, status);
        let Some(info) = found.filter(|info| !info.invalid) else { return Ok(()) };
        write(&mut answers.id, info.id);
        write(&mut answers.graph, info.graph);
        // Valid until the next call on this stream's capture, as CUDA has it.
        write(&mut answers.dependencies, info.member.tail.as_ptr());
        write(&mut answers.edges, info.member.edges.as_ptr());
        write(&mut answers.count, info.member.tail.len());
        Ok(())
    })
}

fn write<T>(room: &mut Out<'_, T>, value: T) {
    if let Some(room) = room {
        room.write(value);
    }
}

fn update(
    default: DefaultStream,
    stream: u64,
    dependencies: *const u64,
    edges: *const Edge,
    count: usize,
    flags: u32,
) -> CuResult<()> {
    let target = resolve(default, stream)?;
    if flags > 1 {
        return Err(CuError::INVALID_VALUE);
    }
    // SAFETY: the caller's arrays of `count` entries (module doc of `edge`).
    let nodes = unsafe {
        check_edges(edges, count)?;
        list(dependencies, count)?
    };
    store::with(|store| store.update_tail(key(&target), &nodes, flags == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_a_thread_is_its_own() {
        let mut mode = 2;
        assert_eq!(cudaThreadExchangeStreamCaptureMode(Some(&mut mode)), 0);
        assert_eq!(mode, 0);
        let of_other = std::thread::spawn(|| capture::exchange_mode(1)).join().unwrap();
        assert_eq!(of_other, 0);
        assert_eq!(cudaThreadExchangeStreamCaptureMode(Some(&mut mode)), 0);
        assert_eq!(mode, 2);
        let mut wrong = 3;
        assert_eq!(cudaThreadExchangeStreamCaptureMode(Some(&mut wrong)), 1);
    }
}
