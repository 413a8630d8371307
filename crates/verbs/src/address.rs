//! Addresses as the C library wants them.

use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use libc::{AF_INET, AF_INET6, sa_family_t, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage};
use verbs_abi::Address;

use crate::failure::{Failure, Outcome};

/// A socket address with room for any family.
pub(crate) struct RawAddress(sockaddr_storage);

impl RawAddress {
    /// What a C function reads. Those of rdma_cm take it as mutable and only read it.
    pub(crate) fn pointer(&mut self) -> *mut sockaddr {
        (&raw mut self.0).cast()
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> RawAddress {
        // SAFETY: all zeros is an address of the family AF_UNSPEC.
        let mut storage: sockaddr_storage = unsafe { zeroed() };
        match address {
            SocketAddr::V4(address) => {
                // SAFETY: a sockaddr_storage has the size and alignment of every address family; zeros are valid.
                let v4 = unsafe { &mut *(&raw mut storage).cast::<sockaddr_in>() };
                v4.sin_family = family(AF_INET);
                v4.sin_port = address.port().to_be();
                v4.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            }
            SocketAddr::V6(address) => {
                // SAFETY: as above.
                let v6 = unsafe { &mut *(&raw mut storage).cast::<sockaddr_in6>() };
                v6.sin6_family = family(AF_INET6);
                v6.sin6_port = address.port().to_be();
                v6.sin6_addr.s6_addr = address.ip().octets();
                v6.sin6_scope_id = address.scope_id();
            }
        }
        RawAddress(storage)
    }
}

/// The caller's address; `at` is the step that fails if it has no known family.
pub(crate) fn from_abi(address: &Address, at: u32) -> Outcome<SocketAddr> {
    let bytes = address.bytes;
    match address.family {
        4 => Ok((Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]), address.port).into()),
        6 => Ok(SocketAddrV6::new(Ipv6Addr::from(bytes), address.port, 0, address.scope).into()),
        other => Err(Failure::new(at, format!("an address of family {other}, which is neither 4 nor 6"))),
    }
}

/// An address for the caller; `None` becomes all zeros.
pub(crate) fn to_abi(address: Option<SocketAddr>) -> Address {
    let Some(address) = address else { return Address::default() };
    let mut bytes = [0; 16];
    let (family, scope) = match address {
        SocketAddr::V4(v4) => {
            bytes[..4].copy_from_slice(&v4.ip().octets());
            (4, 0)
        }
        SocketAddr::V6(v6) => {
            bytes = v6.ip().octets();
            (6, v6.scope_id())
        }
    };
    Address { family, port: address.port(), scope, bytes }
}

/// Reads an address that the C library has written.
///
/// # Safety
/// `address` is null or points at an address that is as long as its family wants.
pub(crate) unsafe fn read(address: *const sockaddr) -> Option<SocketAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, and every address begins with its family.
    let found = i32::from(unsafe { address.read_unaligned() }.sa_family);
    match found {
        AF_INET => {
            // SAFETY: the family says how long it is.
            let v4 = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some((ip, u16::from_be(v4.sin_port)).into())
        }
        AF_INET6 => {
            // SAFETY: the family says how long it is.
            let v6 = unsafe { address.cast::<sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// How many leading bits two addresses share; none if their families differ.
pub(crate) fn shared_bits(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => 0,
    }
}

fn family(number: i32) -> sa_family_t {
    sa_family_t::try_from(number).unwrap_or(0)
}

const _: () = assert!(size_of::<sockaddr_storage>() >= size_of::<sockaddr_in6>());

#[cfg(test)]
mod tests {
    use verbs_abi::step;

    use super::*;

    #[test]
    fn addresses_survive_the_way_to_c_and_back() {
        for text in ["10.9.0.2:4791", "[fe80::1%3]:5", "[::]:0", "0.0.0.0:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut raw = RawAddress::from(address);
            // SAFETY: `raw` has room for every family.
            assert_eq!(unsafe { read(raw.pointer()) }, Some(address));
            assert_eq!(from_abi(&to_abi(Some(address)), step::ADDRESS).unwrap(), address);
        }
    }

    #[test]
    fn unknown_family_is_a_failure_at_the_step_that_was_named() {
        let failure = from_abi(&Address { family: 9, ..Address::default() }, step::LISTEN).unwrap_err();
        assert_eq!(failure.step, step::LISTEN);
    }
}
