//! What the kernel knows about a TCP connection.

#![allow(unsafe_code, reason = "TCP_INFO has no safe wrapper (docs/adr/0008)")]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes of payload sent and acknowledged, and received, in the life of the connection; `None` if it is not TCP.
pub(crate) fn tcp_bytes(socket: BorrowedFd<'_>) -> Option<u64> {
    // struct tcp_info, include/uapi/linux/tcp.h: tcpi_bytes_acked and tcpi_bytes_received, since Linux 4.1.
    const ACKNOWLEDGED: usize = 120;
    const RECEIVED: usize = 128;
    let mut info = [0_u8; 256];
    let mut bytes = libc::socklen_t::try_from(info.len()).expect("a small number");
    // SAFETY: the buffer has as many bytes as is said, and the kernel writes no more.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let long = |at: usize| info.get(at..at + 8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    (answer == 0 && bytes as usize >= RECEIVED + 8).then(|| Some(long(ACKNOWLEDGED)? + long(RECEIVED)?))?
}
