//! Virtual memory and values that streams wait for, through a client: what it refuses without asking, and what it
//! leaves behind.

use std::sync::Arc;

use client::Session;
use client::virtual_memory::Access;
use cuda_types::{CUdeviceptr, CUstream, CuError, HostSpan};
use proto::{MemoryCalls, StreamCalls};
use soft_gpu::{SoftGpu, SoftOptions};
use testkit::{Harness, Wire};
use vgpu_server::worker::{SessionEnd, WorkerOptions};

const UNIT: u64 = 2 << 20;

fn connect(wire: Wire) -> (Harness, Arc<Session>) {
    let gpu = Arc::new(SoftGpu::open(0, SoftOptions::default()).expect("a software GPU"));
    let harness = Harness::new(wire, gpu, 0, WorkerOptions::default());
    let session = harness.remote.session().expect("a worker");
    (harness, session)
}

fn up(session: &Session, to: u64, bytes: usize) -> Result<(), CuError> {
    session.copy_to_device(CUdeviceptr(to), HostSpan::leak(vec![7; bytes]), CUstream::NULL, true)
}

fn down(session: &Session, from: u64, bytes: usize) -> Result<Vec<u8>, CuError> {
    let room = HostSpan::leak(vec![0; bytes]);
    session.copy_to_host(room, CUdeviceptr(from), CUstream::NULL, true)?;
    Ok(room.read().to_vec())
}

fn a_range_grows_and_is_refused_where_nothing_is(wire: Wire) {
    let (harness, session) = connect(wire);
    let refused = Err(CuError::INVALID_VALUE);
    let free = || session.cuMemGetInfo_v2().expect("a device").0;
    // For lack of memory the chunk is given back that came with the greeting.
    assert_eq!(session.create_physical(1 << 50), Err(CuError::OUT_OF_MEMORY));
    let before = free();
    let base = session.reserve_addresses(8 * UNIT, 0, 0).expect("addresses");
    assert_eq!(session.reserve_addresses(UNIT / 2, 0, 0), Err(CuError::INVALID_VALUE));
    let [first, second] = [(); 2].map(|()| session.create_physical(UNIT).expect("memory"));
    session.map_physical(base, UNIT, 0, first).expect("reserved");
    assert_eq!(up(&session, base, 16), refused, "no access yet");
    session.set_access(base, UNIT, Access::ReadWrite).expect("mapped");
    assert_eq!(up(&session, base + UNIT - 8, 16), refused, "behind its end");
    session.map_physical(base + UNIT, UNIT, 0, second).expect("reserved");
    assert_eq!(session.map_physical(base + UNIT, UNIT, 0, first), refused, "something is there");
    assert_eq!(session.map_physical(base + 8 * UNIT, UNIT, 0, first), refused, "not reserved");
    session.set_access(base + UNIT, UNIT, Access::ReadWrite).expect("mapped");
    // More than travels inside a call, across the border.
    up(&session, base + UNIT - 50_000, 100_000).expect("both are mapped");
    assert_eq!(down(&session, base + UNIT - 50_000, 100_000), Ok(vec![7; 100_000]));
    assert_eq!(session.allocation(CUdeviceptr(base + UNIT + 9)), Some((CUdeviceptr(base + UNIT), UNIT)));
    session.set_access(base + UNIT, UNIT, Access::Read).expect("mapped");
    assert_eq!(up(&session, base + UNIT - 8, 16), refused, "the second half is for reading");
    assert_eq!(down(&session, base + UNIT - 8, 16), Ok(vec![7; 16]));
    assert_eq!(session.cuMemFree(CUdeviceptr(base)), refused, "it was not allocated");
    // Nobody holds the first any more, but it is mapped; its number comes back by its address.
    assert_eq!(session.release_physical(first), Ok(false));
    assert_eq!(session.release_physical(first), Err(CuError::INVALID_VALUE));
    assert_eq!(session.retain_physical(base + 5), Ok(first));
    assert_eq!(session.release_physical(second), Ok(false));
    assert_eq!(session.unmap_physical(base, UNIT / 2), Err(CuError::INVALID_VALUE));
    assert_eq!(session.unreserve_addresses(base, 8 * UNIT), refused, "something is mapped");
    assert_eq!(session.unmap_physical(base, 2 * UNIT), Ok(vec![second]));
    assert_eq!(down(&session, base, 16), Err(CuError::INVALID_VALUE));
    assert_eq!(session.release_physical(first), Ok(true));
    assert_eq!(free(), before);
    session.unreserve_addresses(base, 8 * UNIT).expect("empty");
    let other = session.cuMemAlloc(8 * UNIT).expect("the addresses are free for anything");
    assert_eq!(session.cuMemFree(other), Ok(()));
    assert_eq!(session.cuCtxSynchronize(), Ok(()), "nothing posted was refused");
    harness.finish();
}

fn a_session_ends_though_a_stream_waits_in_vain(wire: Wire) {
    let (harness, session) = connect(wire);
    let memory = session.cuMemAlloc(64).expect("memory");
    session.cuMemsetD8Async(memory, 0, 64, CUstream::NULL).expect("set");
    session.cuCtxSynchronize().expect("zeros");
    let stream = session.cuStreamCreateWithPriority(1, 0).expect("a stream");
    StreamCalls::cuStreamWaitValue32_v2(&*session, stream, memory, 1, 1).expect("waits");
    assert_eq!(StreamCalls::cuStreamQuery(&*session, stream), Err(CuError::NOT_READY));
    // Resetting waits for the worker only so long; then the worker is left, and ends as well.
    harness.remote.reset().expect("left");
    let (end, _) = harness.finish();
    assert!(matches!(end, SessionEnd::Farewell), "{end}");
}

testkit::over_links! { over_memory: Memory, over_tcp: Tcp, over_verbs: Verbs => {
    a_range_grows_and_is_refused_where_nothing_is
    a_session_ends_though_a_stream_waits_in_vain
} }
